/* Encodes infos that have the keys, types and shapes of the one a template was made of: what
 * `InfoTemplate.encode` does in Python, byte for byte. Included by plain_step.c. */

enum how { IS_FLOAT, IS_SCALAR, IS_ARRAY };

typedef struct {
    PyObject *name;
    PyTypeObject *kind;
    PyObject *dtype, *shape; /* of an array */
    Py_ssize_t at, size;     /* where its bytes are */
    enum how how;
} InfoField;

typedef struct {
    PyObject_HEAD
    PyObject *content; /* the info it was made of, encoded */
    Py_ssize_t count;
    InfoField *fields;
} InfoTemplate;

static PyTypeObject info_template_type;

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

static int is_same_name(PyObject *name, PyObject *known)
{
    return name == known || (PyUnicode_CheckExact(name) && PyUnicode_Compare(name, known) == 0);
}

/* Write the info, as many bytes as the template has; 0 if it is of another kind. Runs no code of
 * others. */
static int put_info(InfoTemplate *template, PyObject *info, char *target)
{
    if (PyDict_GET_SIZE(info) != template->count) {
        return 0;
    }
    memcpy(target, PyBytes_AS_STRING(template->content), PyBytes_GET_SIZE(template->content));
    PyObject *name, *value;
    Py_ssize_t next = 0;
    for (InfoField *field = template->fields; PyDict_Next(info, &next, &name, &value); field++) {
        if (Py_TYPE(value) != field->kind || !is_same_name(name, field->name)) {
            return 0;
        }
        char *place = target + field->at;
        if (field->how == IS_FLOAT) {
            PyFloat_Pack8(PyFloat_AS_DOUBLE(value), place, 0); /* msgpack: the large end first */
        } else if (field->how == IS_SCALAR) {
            PyArray_ScalarAsCtype(value, place);
        } else if (is_usual((PyArrayObject *)value, field->dtype, field->shape)) {
            memcpy(place, PyArray_DATA((PyArrayObject *)value), field->size);
        } else {
            return 0;
        }
    }
    return 1;
}

static void forget_fields(InfoTemplate *self)
{
    for (Py_ssize_t n = 0; n < self->count; n++) {
        Py_XDECREF(self->fields[n].name);
        Py_XDECREF(self->fields[n].kind);
        Py_XDECREF(self->fields[n].dtype);
        Py_XDECREF(self->fields[n].shape);
    }
    PyMem_Free(self->fields);
    Py_CLEAR(self->content);
}

static void info_template_dealloc(InfoTemplate *self)
{
    forget_fields(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Learn how a value is written; 0 with an exception if it cannot be. */
static int learn_field(InfoField *field, PyObject *name, PyObject *value, PyObject *offset)
{
    if (!PyUnicode_CheckExact(name)) {
        PyErr_SetString(PyExc_TypeError, "a name is no str");
        return 0;
    }
    field->name = Py_NewRef(name);
    field->kind = (PyTypeObject *)Py_NewRef(Py_TYPE(value));
    if (PyFloat_CheckExact(value)) {
        field->how = IS_FLOAT;
        field->size = sizeof(double);
    } else if (PyArray_CheckExact(value)) {
        PyArrayObject *array = (PyArrayObject *)value;
        field->how = IS_ARRAY;
        field->size = PyArray_NBYTES(array);
        field->dtype = Py_NewRef((PyObject *)PyArray_DESCR(array));
        field->shape = PyObject_GetAttrString(value, "shape");
    } else if (PyArray_IsScalar(value, Number) || PyArray_IsScalar(value, Bool)) {
        PyArray_Descr *dtype = PyArray_DescrFromScalar(value);
        field->how = IS_SCALAR;
        field->size = dtype == NULL ? 0 : PyDataType_ELSIZE(dtype);
        Py_XDECREF(dtype);
    } else {
        PyErr_SetString(PyExc_TypeError, "a value has no fixed size");
    }
    field->at = PyErr_Occurred() ? -1 : PyLong_AsSsize_t(offset);
    return !PyErr_Occurred();
}

PyDoc_STRVAR(info_template_text,
             "InfoTemplate(info, content, offsets)\n--\n\n"
             "Encodes infos like this one, whose bytes are `content`; the bytes of its values are\n"
             "at these offsets.");

static PyObject *info_template_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *info, *content, *offsets;
    if (!PyArg_ParseTuple(args, "O!SO!", &PyDict_Type, &info, &content, &PyTuple_Type, &offsets)) {
        return NULL;
    }
    InfoTemplate *self = (InfoTemplate *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->content = Py_NewRef(content);
    self->fields = PyMem_Calloc(PyDict_GET_SIZE(info) + 1, sizeof(InfoField));
    if (self->fields == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    PyObject *name, *value;
    Py_ssize_t next = 0;
    while (PyDict_Next(info, &next, &name, &value)) {
        InfoField *field = self->fields + self->count;
        if (self->count == PyTuple_GET_SIZE(offsets)) {
            PyErr_SetString(PyExc_ValueError, "an offset is missing");
            Py_DECREF(self);
            return NULL;
        }
        PyObject *offset = PyTuple_GET_ITEM(offsets, self->count++);
        if (!learn_field(field, name, value, offset)) {
            Py_DECREF(self);
            return NULL;
        }
        if (field->at < 0 || field->at > PyBytes_GET_SIZE(content) - field->size) {
            PyErr_SetString(PyExc_ValueError, "an offset is outside the content");
            Py_DECREF(self);
            return NULL;
        }
    }
    return (PyObject *)self;
}

PyDoc_STRVAR(encode_text, "encode(info)\n--\n\nThe info in bytes; None if it is of another kind.");

static PyObject *info_template_encode(InfoTemplate *self, PyObject *info)
{
    if (!PyDict_CheckExact(info)) {
        Py_RETURN_NONE;
    }
    PyObject *encoded = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(self->content));
    if (encoded != NULL && !put_info(self, info, PyBytes_AS_STRING(encoded))) {
        Py_DECREF(encoded);
        Py_RETURN_NONE;
    }
    return encoded;
}

static PyMethodDef info_template_methods[] = {
    {"encode", (PyCFunction)info_template_encode, METH_O, encode_text}, {NULL, NULL, 0, NULL}};

static PyTypeObject info_template_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jamboree_gym.encoding._compiled.InfoTemplate",
    .tp_basicsize = sizeof(InfoTemplate),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = info_template_text,
    .tp_new = info_template_new,
    .tp_dealloc = (destructor)info_template_dealloc,
    .tp_methods = info_template_methods,
};
