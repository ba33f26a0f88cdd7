/* Writes the values of a dict that has the names, types and shapes of another one, which a template
 * describes: an info, as `InfoTemplate.encode` does in Python, or an annotation. Byte for byte.
 * Included by plain_step.c. */

/* How a value is written: the letters that `encoding/info_template.py` and `row_format.py` give. */
enum how {
    LARGE_END_FLOAT = 'm', /* a float as msgpack has it, the large end first */
    FLOAT = 'd',
    ROUNDED_FLOAT = 'f', /* a float32, by way of a double, as `struct` does it */
    INT = 'q',
    FLAG = '?',
    SCALAR = 's', /* a number of NumPy */
    ARRAY = 'a',
};

typedef struct {
    PyObject *name;
    PyTypeObject *kind;
    PyObject *dtype, *shape; /* of an array */
    Py_ssize_t at, size;     /* where its bytes are */
    int how;
} Field;

typedef struct {
    PyObject_HEAD
    PyObject *content; /* what stands around the values */
    Py_ssize_t room;   /* the values lie within so many bytes */
    Py_ssize_t count;
    Field *fields;
} Template;

static PyTypeObject template_type;

/* Whether the array lies in memory as a row keeps it. */
static int is_usual(PyArrayObject *array, PyObject *dtype, PyObject *shape)
{
    return (PyObject *)PyArray_DESCR(array) == dtype && PyArray_IS_C_CONTIGUOUS(array) &&
           shape != NULL && PyTuple_CheckExact(shape) && has_shape(array, shape);
}

static int is_same_name(PyObject *name, PyObject *known)
{
    return name == known || (PyUnicode_CheckExact(name) && PyUnicode_Compare(name, known) == 0);
}

/* Write a value; 0 if it is not as the field says. Runs no code of others. */
static int put_value(const Field *field, PyObject *value, char *place)
{
    if (Py_TYPE(value) != field->kind) {
        return 0;
    }
    int overflow = 0;
    int64_t number;
    switch (field->how) {
    case LARGE_END_FLOAT:
        return PyFloat_Pack8(PyFloat_AS_DOUBLE(value), place, 0) == 0;
    case FLOAT:
        return PyFloat_Pack8(PyFloat_AS_DOUBLE(value), place, 1) == 0;
    case ROUNDED_FLOAT:
        return PyFloat_Pack4((double)PyArrayScalar_VAL(value, Float32), place, 1) == 0;
    case INT:
        number = PyLong_AsLongLongAndOverflow(value, &overflow);
        memcpy(place, &number, sizeof number);
        return !overflow;
    case FLAG:
        *place = value == Py_True;
        return 1;
    case SCALAR:
        PyArray_ScalarAsCtype(value, place);
        return 1;
    default:
        if (!is_usual((PyArrayObject *)value, field->dtype, field->shape)) {
            return 0;
        }
        memcpy(place, PyArray_DATA((PyArrayObject *)value), field->size);
        return 1;
    }
}

/* Write the values where the fields are; 0 if it is another dict. Runs no code of others. */
static int put_values(Template *template, PyObject *dict, char *target)
{
    if (PyDict_GET_SIZE(dict) != template->count) {
        return 0;
    }
    PyObject *name, *value;
    Py_ssize_t next = 0;
    for (Field *field = template->fields; PyDict_Next(dict, &next, &name, &value); field++) {
        if (!is_same_name(name, field->name) || !put_value(field, value, target + field->at)) {
            return 0;
        }
    }
    return 1;
}

/* Write the content with the values of this dict; 0 if it is another dict, or if the content is not
 * what stands around them. */
static int put_whole(Template *template, PyObject *dict, char *target)
{
    Py_ssize_t size = PyBytes_GET_SIZE(template->content);
    if (template->room > size) {
        return 0;
    }
    memcpy(target, PyBytes_AS_STRING(template->content), size);
    return put_values(template, dict, target);
}

static void template_dealloc(Template *self)
{
    for (Py_ssize_t n = 0; n < self->count; n++) {
        Py_DECREF(self->fields[n].name);
        Py_DECREF(self->fields[n].kind);
        Py_DECREF(self->fields[n].dtype);
        Py_DECREF(self->fields[n].shape);
    }
    PyMem_Free(self->fields);
    Py_XDECREF(self->content);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int is_number(PyArray_Descr *dtype)
{
    return PyTypeNum_ISNUMBER(dtype->type_num) || PyTypeNum_ISBOOL(dtype->type_num);
}

/* How many bytes a value takes, of an array an element; -1 if none of this class is written so. */
static Py_ssize_t size_of(PyTypeObject *kind, int how, PyObject *dtype)
{
    PyArray_Descr *known = PyArray_DescrCheck(dtype) ? (PyArray_Descr *)dtype : NULL;
    switch (how) {
    case LARGE_END_FLOAT:
    case FLOAT:
        return kind == &PyFloat_Type ? 8 : -1;
    case ROUNDED_FLOAT:
        return kind == &PyFloatArrType_Type ? 4 : -1;
    case INT:
        return kind == &PyLong_Type ? 8 : -1;
    case FLAG:
        return kind == &PyBool_Type ? 1 : -1;
    case SCALAR:
        return known != NULL && known->typeobj == kind && is_number(known)
                   ? PyDataType_ELSIZE(known)
                   : -1;
    case ARRAY:
        return known != NULL && kind == &PyArray_Type && is_number(known)
                   ? PyDataType_ELSIZE(known)
                   : -1;
    default:
        return -1;
    }
}

/* The same of a whole array; -1 if the shape is none. */
static Py_ssize_t size_of_shape(PyObject *shape, Py_ssize_t size)
{
    if (!PyTuple_CheckExact(shape)) {
        return -1;
    }
    for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(shape); n++) {
        Py_ssize_t length = PyLong_AsSsize_t(PyTuple_GET_ITEM(shape, n));
        if (length < 1 || size > PY_SSIZE_T_MAX / length) {
            PyErr_Clear();
            return -1;
        }
        size *= length;
    }
    return size;
}

/* Learn how a value is written; 0 with an exception if it would be written elsewhere. */
static int learn_field(Template *self, PyObject *told)
{
    PyObject *name, *dtype, *shape;
    PyTypeObject *kind;
    int how;
    Py_ssize_t at;
    if (!PyTuple_Check(told)) {
        PyErr_SetString(PyExc_TypeError, "a field is a tuple");
        return 0;
    }
    if (!PyArg_ParseTuple(told, "UO!CnOO", &name, &PyType_Type, &kind, &how, &at, &dtype, &shape)) {
        return 0;
    }
    Py_ssize_t size = PyUnicode_CheckExact(name) ? size_of(kind, how, dtype) : -1;
    if (how == ARRAY && size >= 0) {
        size = size_of_shape(shape, size);
    }
    if (size < 0 || at < 0 || at > self->room - size) {
        PyErr_Format(PyExc_ValueError, "%U cannot be written so, or there", name);
        return 0;
    }
    self->fields[self->count++] = (Field){
        .name = Py_NewRef(name),
        .kind = (PyTypeObject *)Py_NewRef(kind),
        .dtype = Py_NewRef(dtype),
        .shape = Py_NewRef(shape),
        .at = at,
        .size = size,
        .how = how,
    };
    return 1;
}

PyDoc_STRVAR(template_text,
             "Template(content, room, fields)\n--\n\n"
             "Writes dicts that are alike. Of each value a field tells name, class, how it is\n"
             "written, the offset of its bytes, dtype and shape. They lie within `room` bytes.");

static PyObject *template_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *content, *fields;
    Py_ssize_t room;
    if (!PyArg_ParseTuple(args, "SnO!", &content, &room, &PyTuple_Type, &fields)) {
        return NULL;
    }
    Template *self = (Template *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->content = Py_NewRef(content);
    self->room = room;
    self->fields = PyMem_Calloc(PyTuple_GET_SIZE(fields) + 1, sizeof(Field));
    if (self->fields == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(fields); n++) {
        if (!learn_field(self, PyTuple_GET_ITEM(fields, n))) {
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

PyDoc_STRVAR(encode_text,
             "encode(values)\n--\n\n"
             "The content with the values of this dict; None if it is another dict.");

static PyObject *template_encode(Template *self, PyObject *dict)
{
    if (!PyDict_CheckExact(dict)) {
        Py_RETURN_NONE;
    }
    PyObject *encoded = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(self->content));
    if (encoded != NULL && !put_whole(self, dict, PyBytes_AS_STRING(encoded))) {
        Py_DECREF(encoded);
        Py_RETURN_NONE;
    }
    return encoded;
}

static PyMethodDef template_methods[] = {
    {"encode", (PyCFunction)template_encode, METH_O, encode_text}, {NULL, NULL, 0, NULL}};

static PyTypeObject template_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jamboree_gym.compiled._compiled.Template",
    .tp_basicsize = sizeof(Template),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = template_text,
    .tp_new = template_new,
    .tp_dealloc = (destructor)template_dealloc,
    .tp_methods = template_methods,
};
