/* Writes the row of a plain step, as `RowWriter.add_common_step` does in Python, byte for byte.
 *
 * Plain: the observation is an array, nothing was annotated, there is no info, the episode goes on.
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

enum slot {
    ACTION,
    CHECK_EVERY,
    CLOCK,
    CONTENT,
    COUNT_AT,
    DTYPE,
    FIRST_AT,
    LAST_AT,
    LATE_AT,
    MARKED,
    NBYTES,
    NUMBER,
    SHAPE,
    TAKES_ARRAYS,
    TAKES_COMMON,
    T_LAST,
    WORDS,
    SLOTS
};

static const char *const slot_names[SLOTS] = {
    "packed_action", "_check_every",  "_clock",        "_content",  "_count_at", "_dtype",
    "_first_at",     "_last_at",      "late_at",       "_marked",   "_nbytes",   "_number",
    "_shape",        "_takes_arrays", "_takes_common", "_t_last",   "_words",
};

static PyTypeObject *row_writer; /* the class */
static Py_ssize_t offsets[SLOTS];
static PyObject *numpy_false, *announce;

#define SLOT(steps, name) (*(PyObject **)((char *)(steps) + offsets[name]))

/* flags, number of the schema, reward, timestamp, place of the info: `<BIddII` in row_format.py */
enum { NUMBER_AT = 1, REWARD_AT = 5, TIME_AT = 13, INFO_AT = 21, OBSERVATION_AT = 29 };

/* A slot's number; -1 where it holds none, or one below 0. */
static Py_ssize_t size_in(PyObject *steps, enum slot name)
{
    PyObject *value = SLOT(steps, name);
    if (value == NULL || !PyLong_CheckExact(value)) {
        return -1;
    }
    Py_ssize_t size = PyLong_AsSsize_t(value);
    if (size < 0) {
        PyErr_Clear();
        return -1;
    }
    return size;
}

/* The memory of a slot, NULL where it holds none that can be written. */
static Py_buffer *memory_in(PyObject *steps, enum slot name)
{
    PyObject *value = SLOT(steps, name);
    if (value == NULL || !PyMemoryView_Check(value)) {
        return NULL;
    }
    Py_buffer *memory = PyMemoryView_GET_BUFFER(value);
    return memory->readonly || memory->obj == NULL ? NULL : memory;
}

/* NaN where it is no float. */
static double seconds(PyObject *value)
{
    return value != NULL && PyFloat_CheckExact(value) ? PyFloat_AS_DOUBLE(value) : Py_NAN;
}

static int is_false(PyObject *flag)
{
    return flag == Py_False || flag == numpy_false;
}

/* Whether the array lies in memory as a row keeps it. */
static int is_usual(PyArrayObject *array, PyObject *dtype, PyObject *shape)
{
    int ndim = PyArray_NDIM(array);
    if ((PyObject *)PyArray_DESCR(array) != dtype || !PyArray_IS_C_CONTIGUOUS(array) ||
        shape == NULL || !PyTuple_CheckExact(shape) || PyTuple_GET_SIZE(shape) != ndim) {
        return 0;
    }
    for (int n = 0; n < ndim; n++) {
        if (PyLong_AsSsize_t(PyTuple_GET_ITEM(shape, n)) != PyArray_DIM(array, n)) {
            PyErr_Clear();
            return 0;
        }
    }
    return 1;
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

/* Write a row and publish it; 0 if it is no plain one, -1 with an exception. The caller keeps the
 * memory of the slots CONTENT and WORDS, whatever the clock does. */
static int put_row(PyObject *steps, PyArrayObject *observation, double reward)
{
    Py_buffer *block = memory_in(steps, CONTENT), *words = memory_in(steps, WORDS);
    Py_ssize_t count_at = size_in(steps, COUNT_AT), check_every = size_in(steps, CHECK_EVERY);
    Py_ssize_t first_at = size_in(steps, FIRST_AT), nbytes = size_in(steps, NBYTES);
    Py_ssize_t last_at = size_in(steps, LAST_AT), number = size_in(steps, NUMBER);
    Py_ssize_t size = PyArray_NBYTES(observation), action_at = OBSERVATION_AT + size;
    if (block == NULL || words == NULL || count_at < 0 || check_every < 1 || first_at < 0 ||
        last_at < 0 || number < 0 || number > UINT32_MAX || nbytes < action_at ||
        (count_at + 1) * (Py_ssize_t)sizeof(uint32_t) > words->len) {
        return 0;
    }
    uint32_t *published = (uint32_t *)words->buf + count_at, count = *published;
    Py_ssize_t at = first_at + (Py_ssize_t)count * nbytes;
    if (count % check_every == 0 || at > last_at || at + nbytes > block->len) {
        return 0;
    }
    char *row = (char *)block->buf + at;
    if (!put_action(row + action_at, nbytes - action_at, SLOT(steps, ACTION))) {
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
    double time_s = seconds(now), newest_s = seconds(SLOT(steps, T_LAST));
    if (!(time_s > newest_s && time_s <= seconds(SLOT(steps, LATE_AT)))) {
        Py_DECREF(now);
        return 0;
    }
    uint32_t schema = (uint32_t)number;
    row[0] = 0;
    memcpy(row + NUMBER_AT, &schema, sizeof schema);
    memcpy(row + REWARD_AT, &reward, sizeof reward);
    memcpy(row + TIME_AT, &time_s, sizeof time_s);
    memset(row + INFO_AT, 0, OBSERVATION_AT - INFO_AT);
    memcpy(row + OBSERVATION_AT, PyArray_DATA(observation), size);
    __atomic_store_n(published, count + 1, __ATOMIC_RELEASE); /* from here on it is there */
    Py_SETREF(SLOT(steps, T_LAST), now);
    return 1;
}

PyDoc_STRVAR(add_plain_step_text,
             "add_plain_step(steps, returned)\n--\n\n"
             "Write the row of what `env.step` returned; whether it was, if not, nothing is.");

static PyObject *add_plain_step(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || row_writer == NULL || !PyObject_TypeCheck(args[0], row_writer)) {
        PyErr_SetString(PyExc_TypeError, "add_plain_step takes a RowWriter and what was returned");
        return NULL;
    }
    PyObject *steps = args[0], *returned = args[1];
    if (!PyTuple_CheckExact(returned) || PyTuple_GET_SIZE(returned) != 5) {
        Py_RETURN_FALSE;
    }
    PyObject *observation = PyTuple_GET_ITEM(returned, 0), *reward = PyTuple_GET_ITEM(returned, 1);
    PyObject *info = PyTuple_GET_ITEM(returned, 4);
    if (SLOT(steps, TAKES_COMMON) != Py_True || SLOT(steps, TAKES_ARRAYS) != Py_True ||
        !is_false(PyTuple_GET_ITEM(returned, 2)) || !is_false(PyTuple_GET_ITEM(returned, 3)) ||
        !PyDict_CheckExact(info) || PyDict_GET_SIZE(info) != 0 ||
        Py_TYPE(observation) != &PyArray_Type ||
        (!PyFloat_CheckExact(reward) && Py_TYPE(reward) != &PyDoubleArrType_Type) ||
        !is_usual((PyArrayObject *)observation, SLOT(steps, DTYPE), SLOT(steps, SHAPE))) {
        Py_RETURN_FALSE;
    }
    PyObject *content = Py_XNewRef(SLOT(steps, CONTENT)), *words = Py_XNewRef(SLOT(steps, WORDS));
    int done = put_row(steps, (PyArrayObject *)observation, PyFloat_AS_DOUBLE(reward));
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
    return PyBool_FromLong(done);
}

PyDoc_STRVAR(writer_of_text,
             "writer_of(row_writer)\n--\n\n"
             "The function `add_plain_step`, for outboxes of this class.");

static PyMethodDef add_plain_step_method = {
    "add_plain_step", (PyCFunction)(void (*)(void))add_plain_step, METH_FASTCALL,
    add_plain_step_text};

static PyObject *writer_of(PyObject *module, PyObject *kind)
{
    if (!PyType_Check(kind)) {
        PyErr_SetString(PyExc_TypeError, "writer_of takes the class RowWriter");
        return NULL;
    }
    for (int n = 0; n < SLOTS; n++) {
        PyObject *member = PyObject_GetAttrString(kind, slot_names[n]);
        if (member == NULL) {
            return NULL;
        }
        int is_slot = Py_TYPE(member) == &PyMemberDescr_Type;
        if (is_slot) {
            offsets[n] = ((PyMemberDescrObject *)member)->d_member->offset;
        }
        Py_DECREF(member);
        if (!is_slot) {
            return PyErr_Format(PyExc_TypeError, "%s is no slot", slot_names[n]);
        }
    }
    Py_INCREF(kind);
    Py_XSETREF(row_writer, (PyTypeObject *)kind);
    return PyCFunction_New(&add_plain_step_method, NULL);
}

static PyMethodDef functions[] = {{"writer_of", writer_of, METH_O, writer_of_text},
                                  {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_plain_step",
    .m_doc = "Compiled: the row of a plain step.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__plain_step(void)
{
    import_array();
    announce = PyUnicode_InternFromString("_announce");
    PyObject *numpy = PyImport_ImportModule("numpy");
    if (announce == NULL || numpy == NULL) {
        return NULL;
    }
    numpy_false = PyObject_GetAttrString(numpy, "False_");
    Py_DECREF(numpy);
    return numpy_false == NULL ? NULL : PyModule_Create(&definition);
}
