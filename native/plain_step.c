/* Writes the row of a plain step, as `RowBuffer.add_step` does in Python, byte for byte.
 *
 * Plain: the observation is an array, the info is empty or as a template says, and so is the
 * annotation.
 * Whatever is unusual, even a little, is left to Python: then nothing is written here.
 *
 * The state stays in the slots of `RowWriter`. `writer_of` asks the class once where they are.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>
#include <structmember.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#include <numpy/arrayobject.h>
#include <numpy/arrayscalars.h>

#include "slots.h"
#include "packer.h"
#include "template.h"
#include "columns.h"
#include "checksum.h"
#include "batches.h"
#include "notes.h"
#include "referents.h"
#include "newest_rows.h"
#include "plain_record.h"

enum slot {
    ACTION,
    ANNOTATION,
    ANNOTATION_AT,
    CHECK_EVERY,
    CLOCK,
    CONTENT,
    COUNT_AT,
    DTYPE,
    FIRST_AT,
    LANE,
    LAST_AT,
    LATE_AT,
    MARKED,
    NBYTES,
    NUMBER,
    SHAPE,
    TAKES_COMMON,
    TAKES_PLAIN,
    T_LAST,
    VARIABLE_BYTES,
    WORDS,
    SLOTS /* at most MOST_SLOTS */
};

static const char *const slot_names[SLOTS] = {
    "packed_action", "_annotation",   "_annotation_at", "_check_every",        "_clock",
    "_content",      "_count_at",     "_dtype",         "_first_at",           "_lane",
    "_last_at",      "late_at",       "_marked",        "_nbytes",             "_number",
    "_shape",        "_takes_common", "_takes_plain",   "_t_last",             "_variable_bytes_put",
    "_words",
};

enum { BACK, LANE_SLOTS };

static const char *const lane_slot_names[LANE_SLOTS] = {"back"};

static Slots row_writer, row_lane;
static PyObject *numpy_false, *numpy_true, *announce;
static PyObject *running, *terminated, *truncated; /* status of an episode */

#define SLOT(steps, name) VALUE(steps, row_writer, name)

/* flags, number of the schema, reward, timestamp, place of the info: `<BIddII` in row_format.py */
enum { NUMBER_AT = 1, REWARD_AT = 5, TIME_AT = 13, INFO_AT = 21, OBSERVATION_AT = 29 };

enum { TERMINATED = 1, TRUNCATED = 2, ANNOTATED = 4 }; /* flags */

enum { LARGEST_INFO = 4096 }; /* larger ones are left to Python */

/* The number in a slot, -1 where there is none. */
static Py_ssize_t size_in(PyObject *steps, enum slot name)
{
    return whole(SLOT(steps, name));
}

/* The memory of a slot, NULL where it holds none that can be written. */
static Py_buffer *memory_in(PyObject *steps, enum slot name)
{
    Py_buffer *memory = memory_of(SLOT(steps, name));
    return memory == NULL || memory->readonly ? NULL : memory;
}

static int is_true(PyObject *flag)
{
    return flag == Py_True || flag == numpy_true;
}

static int is_flag(PyObject *flag)
{
    return flag == Py_False || flag == numpy_false || is_true(flag);
}

/* Write a packed action of that size; whether it is one that is packed quickly. */
static int put_action(char *target, Py_ssize_t size, PyObject *action)
{
    if (action == NULL) {
        return 0;
    }
    if (PyBytes_CheckExact(action) && PyBytes_GET_SIZE(action) == size) {
        memcpy(target, PyBytes_AS_STRING(action), size);
        return 1;
    }
    if (size == sizeof(npy_int64) && Py_TYPE(action) == &PyInt64ArrType_Type) {
        memcpy(target, &PyArrayScalar_VAL(action, Int64), size);
        return 1;
    }
    if (size == sizeof(int64_t) && PyLong_CheckExact(action)) {
        int overflow;
        int64_t number = PyLong_AsLongLongAndOverflow(action, &overflow);
        memcpy(target, &number, size);
        return !overflow;
    }
    return 0;
}

/* Put another number into a slot, or into that of a lane; 0 with an exception. */
static int put_number(PyObject **place, Py_ssize_t number)
{
    PyObject *value = PyLong_FromSsize_t(number);
    if (value == NULL) {
        return 0;
    }
    Py_XSETREF(*place, value);
    return 1;
}

/* Put an info into the block, behind all rows; its offset, 0 if it is not as the template says or
 * finds no room, -1 with an exception. */
static Py_ssize_t keep_info(PyObject *steps, Py_ssize_t row_at, PyObject *info, PyObject *template)
{
    PyObject *lane = SLOT(steps, LANE);
    Py_ssize_t last_at = size_in(steps, LAST_AT), put = size_in(steps, VARIABLE_BYTES);
    if (template == Py_None || lane == NULL || Py_TYPE(lane) != row_lane.type || put < 0) {
        return 0;
    }
    Py_buffer *block = memory_in(steps, CONTENT);
    PyObject **back = &VALUE(lane, row_lane, BACK);
    Py_ssize_t size = PyBytes_GET_SIZE(((Template *)template)->content);
    Py_ssize_t end = *back != NULL && PyLong_CheckExact(*back) ? PyLong_AsSsize_t(*back) : -1;
    if (size == 0 || size > LARGEST_INFO || row_at > last_at - size || end < size ||
        end > block->len || end > UINT32_MAX) {
        PyErr_Clear();
        return 0;
    }
    if (!put_whole((Template *)template, info, (char *)block->buf + end - size)) {
        return 0;
    }
    return put_number(back, end - size) && put_number(&SLOT(steps, LAST_AT), last_at - size) &&
                   put_number(&SLOT(steps, VARIABLE_BYTES), put + size)
               ? end - size
               : -1;
}

/* Write a row and publish it; 0 if it is no plain one, -1 with an exception. The caller keeps the
 * memory of the slots CONTENT and WORDS, whatever the clock does. */
static int put_row(PyObject *steps, int flags, PyArrayObject *observation, double reward,
                   PyObject *info, PyObject *template, PyObject *annotation)
{
    Py_buffer *block = memory_in(steps, CONTENT), *words = memory_in(steps, WORDS);
    Py_ssize_t count_at = size_in(steps, COUNT_AT), check_every = size_in(steps, CHECK_EVERY);
    Py_ssize_t first_at = size_in(steps, FIRST_AT), nbytes = size_in(steps, NBYTES);
    Py_ssize_t last_at = size_in(steps, LAST_AT), number = size_in(steps, NUMBER);
    Py_ssize_t size = PyArray_NBYTES(observation), action_at = OBSERVATION_AT + size;
    Py_ssize_t annotation_at = size_in(steps, ANNOTATION_AT);
    PyObject *said = SLOT(steps, ANNOTATION);
    if (block == NULL || words == NULL || count_at < 0 || check_every < 1 || first_at < 0 ||
        last_at < 0 || number < 0 || number > UINT32_MAX || annotation_at < action_at ||
        nbytes < annotation_at ||
        (count_at + 1) * (Py_ssize_t)sizeof(uint32_t) > words->len) {
        return 0;
    }
    uint32_t *published = (uint32_t *)words->buf + count_at, count = *published;
    Py_ssize_t at = first_at + (Py_ssize_t)count * nbytes;
    if (count % check_every == 0 || at > last_at || at + nbytes > block->len) {
        return 0;
    }
    char *row = (char *)block->buf + at;
    if (!put_action(row + action_at, annotation_at - action_at, SLOT(steps, ACTION))) {
        return 0;
    }
    memset(row + annotation_at, 0, nbytes - annotation_at);
    if (annotation != Py_None &&
        (said == NULL || Py_TYPE(said) != &template_type ||
         ((Template *)said)->room > nbytes - annotation_at ||
         !put_values((Template *)said, annotation, row + annotation_at))) {
        return 0;
    }
    if (SLOT(steps, CLOCK) == NULL) {
        return 0;
    }
    PyObject *clock = Py_NewRef(SLOT(steps, CLOCK));
    PyObject *now = PyObject_CallNoArgs(clock); /* any code may run here */
    Py_DECREF(clock);
    if (now == NULL) {
        return -1;
    }
    if (memory_in(steps, CONTENT) != block || memory_in(steps, WORDS) != words ||
        *published != count) { /* it wrote a row, or took the block away */
        Py_DECREF(now);
        return 0;
    }
    double time_s = seconds(now), newest_s = seconds(SLOT(steps, T_LAST));
    if (!(time_s > newest_s && time_s <= seconds(SLOT(steps, LATE_AT)))) {
        Py_DECREF(now);
        return 0;
    }
    uint32_t schema = (uint32_t)number, place[2] = {0, 0};
    if (PyDict_GET_SIZE(info) != 0) {
        Py_ssize_t info_at = keep_info(steps, at, info, template);
        if (info_at <= 0) {
            Py_DECREF(now);
            return (int)info_at;
        }
        place[0] = (uint32_t)info_at;
        place[1] = (uint32_t)PyBytes_GET_SIZE(((Template *)template)->content);
    }
    row[0] = (char)(annotation == Py_None ? flags : flags | ANNOTATED);
    memcpy(row + NUMBER_AT, &schema, sizeof schema);
    memcpy(row + REWARD_AT, &reward, sizeof reward);
    memcpy(row + TIME_AT, &time_s, sizeof time_s);
    memcpy(row + INFO_AT, place, sizeof place);
    memcpy(row + OBSERVATION_AT, PyArray_DATA(observation), size);
    __atomic_store_n(published, count + 1, __ATOMIC_RELEASE); /* from here on it is there */
    Py_SETREF(SLOT(steps, T_LAST), now);
    return 1;
}

PyDoc_STRVAR(add_plain_step_text,
             "add_plain_step(steps, returned, template, annotation)\n--\n\n"
             "Write the row of what `env.step` returned. Status of the episode then; None if it is\n"
             "not written, and nothing else.\n"
             "An info that is not empty has to be as the template says, None if there is none.\n"
             "The annotation is a dict, or None.");

static PyObject *add_plain_step(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 4 || row_writer.type == NULL || !PyObject_TypeCheck(args[0], row_writer.type) ||
        (args[2] != Py_None && Py_TYPE(args[2]) != &template_type)) {
        PyErr_SetString(PyExc_TypeError, "add_plain_step takes a RowWriter, what was returned, a "
                                         "Template or None, an annotation or None");
        return NULL;
    }
    PyObject *steps = args[0], *returned = args[1], *template = args[2], *annotation = args[3];
    if (!PyTuple_CheckExact(returned) || PyTuple_GET_SIZE(returned) != 5) {
        Py_RETURN_NONE;
    }
    PyObject *observation = PyTuple_GET_ITEM(returned, 0), *reward = PyTuple_GET_ITEM(returned, 1);
    PyObject *ends = PyTuple_GET_ITEM(returned, 2), *is_cut_off = PyTuple_GET_ITEM(returned, 3);
    PyObject *info = PyTuple_GET_ITEM(returned, 4);
    if (SLOT(steps, TAKES_COMMON) != Py_True || SLOT(steps, TAKES_PLAIN) != Py_True ||
        (annotation != Py_None && !PyDict_CheckExact(annotation)) ||
        !is_flag(ends) || !is_flag(is_cut_off) || !PyDict_CheckExact(info) || (template == Py_None && PyDict_GET_SIZE(info) != 0) ||
        Py_TYPE(observation) != &PyArray_Type ||
        (!PyFloat_CheckExact(reward) && Py_TYPE(reward) != &PyDoubleArrType_Type) ||
        !is_usual((PyArrayObject *)observation, SLOT(steps, DTYPE), SLOT(steps, SHAPE))) {
        Py_RETURN_NONE;
    }
    int flags = (is_true(ends) ? TERMINATED : 0) | (is_true(is_cut_off) ? TRUNCATED : 0);
    PyObject *content = Py_XNewRef(SLOT(steps, CONTENT)), *words = Py_XNewRef(SLOT(steps, WORDS));
    int done = put_row(steps, flags, (PyArrayObject *)observation, PyFloat_AS_DOUBLE(reward), info,
                       template, annotation);
    Py_XDECREF(content);
    Py_XDECREF(words);
    if (done < 0) {
        return NULL;
    }
    if (done && SLOT(steps, MARKED) != Py_True) {
        PyObject *nothing = PyObject_CallMethodNoArgs(steps, announce);
        if (nothing == NULL) {
            return NULL;
        }
        Py_DECREF(nothing);
    }
    if (!done) {
        Py_RETURN_NONE;
    }
    return Py_NewRef(flags & TERMINATED ? terminated : flags & TRUNCATED ? truncated : running);
}

PyDoc_STRVAR(writer_of_text,
             "writer_of(row_writer, row_lane)\n--\n\n"
             "The function `add_plain_step`, for outboxes and lanes of these classes.");

static PyMethodDef add_plain_step_method = {
    "add_plain_step", (PyCFunction)(void (*)(void))add_plain_step, METH_FASTCALL,
    add_plain_step_text};

PyDoc_STRVAR(copy_of_text,
             "copy_of(steps)\n--\n\n"
             "Another RowWriter with the same in its slots.");

static PyObject *copy_of(PyObject *module, PyObject *steps)
{
    PyTypeObject *kind = Py_TYPE(steps);
    if (row_writer.type == NULL || !PyType_IsSubtype(kind, row_writer.type) || kind->tp_dictoffset != 0) {
        PyErr_SetString(PyExc_TypeError, "copy_of takes a RowWriter that has slots alone");
        return NULL;
    }
    PyObject *copy = kind->tp_alloc(kind, 0);
    Py_ssize_t size = copy == NULL ? 0 : kind->tp_basicsize;
    for (Py_ssize_t at = sizeof(PyObject); at < size; at += sizeof(PyObject *)) {
        if (at != kind->tp_weaklistoffset) {
            *(PyObject **)((char *)copy + at) = Py_XNewRef(*(PyObject **)((char *)steps + at));
        }
    }
    return copy;
}

static PyObject *writer_of(PyObject *module, PyObject *args)
{
    PyObject *writer, *lane;
    if (!PyArg_ParseTuple(args, "O!O!", &PyType_Type, &writer, &PyType_Type, &lane) ||
        !find_slots(&row_writer, writer, slot_names, SLOTS) ||
        !find_slots(&row_lane, lane, lane_slot_names, LANE_SLOTS)) {
        return NULL;
    }
    return PyCFunction_New(&add_plain_step_method, NULL);
}

static PyMethodDef functions[] = {{"add_up", add_up, METH_VARARGS, add_up_text},
                                  {"copy_of", copy_of, METH_O, copy_of_text},
                                  {"encode_batches", encode_batches, METH_VARARGS,
                                   encode_batches_text},
                                  {"encode_note", encode_note, METH_VARARGS, encode_note_text},
                                  {"join_columns", join_columns, METH_VARARGS, join_columns_text},
                                  {"may_refer_to", may_refer_to, METH_VARARGS, may_refer_to_text},
                                  {"newest_of", newest_of, METH_VARARGS, newest_of_text},
                                  {"record_writer_of", record_writer_of, METH_VARARGS,
                                   record_writer_of_text},
                                  {"writer_of", writer_of, METH_VARARGS, writer_of_text},
                                  {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_compiled",
    .m_doc = "Compiled: the row of a plain step, infos of a fixed size, batches, notes, "
             "columns of batches, the newest rows of an episode, and plain records.",
    .m_size = -1,
    .m_methods = functions,
};

static PyObject *imported(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *found = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    Py_XDECREF(module);
    return found;
}

PyMODINIT_FUNC PyInit__compiled(void)
{
    import_array();
    announce = PyUnicode_InternFromString("_announce");
    running = PyUnicode_InternFromString("running");
    terminated = PyUnicode_InternFromString("terminated");
    truncated = PyUnicode_InternFromString("truncated");
    locked = PyUnicode_InternFromString("locked");
    if (!announce || !running || !terminated || !truncated || !locked) {
        return NULL;
    }
    numpy_false = imported("numpy", "False_");
    numpy_true = imported("numpy", "True_");
    zlib_crc32 = imported("zlib", "crc32");
    if (!numpy_false || !numpy_true || !zlib_crc32 || PyType_Ready(&template_type) < 0 ||
        PyType_Ready(&packer_type) < 0) {
        return NULL;
    }
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && (PyModule_AddType(module, &template_type) < 0 ||
                           PyModule_AddType(module, &packer_type) < 0)) {
        Py_CLEAR(module);
    }
    return module;
}
