/* Packs a value that is no group, as the functions of `arrays/packing.py` do in Python.
 * Included by plain_step.c. */

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyTypeObject *kind;      /* of the values */
    PyObject *dtype, *shape; /* of an array */
    PyObject *misfit;        /* is raised for all other values */
} Packer;

static int has_shape(PyArrayObject *array, PyObject *shape)
{
    int ndim = PyArray_NDIM(array);
    if (PyTuple_GET_SIZE(shape) != ndim) {
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

static int has_dtype(PyArrayObject *array, PyObject *dtype)
{
    return (PyObject *)PyArray_DESCR(array) == dtype ||
           PyArray_EquivTypes(PyArray_DESCR(array), (PyArray_Descr *)dtype);
}

static PyObject *pack(PyObject *self, PyObject *const *values, size_t count, PyObject *names)
{
    Packer *packer = (Packer *)self;
    if (PyVectorcall_NARGS(count) != 1 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "one value is packed at a time");
        return NULL;
    }
    PyObject *value = values[0];
    int fits = Py_TYPE(value) == packer->kind;
    if (fits && packer->kind == &PyArray_Type) {
        PyArrayObject *array = (PyArrayObject *)value;
        if (has_shape(array, packer->shape) && has_dtype(array, packer->dtype)) {
            return PyArray_ToString(array, NPY_CORDER);
        }
        fits = 0;
    } else if (fits && packer->kind == &PyLong_Type) {
        int overflow;
        PyLong_AsLongLongAndOverflow(value, &overflow);
        fits = !overflow;
    }
    if (!fits) {
        PyErr_SetNone(packer->misfit);
        return NULL;
    }
    return Py_NewRef(value);
}

static void packer_dealloc(Packer *self)
{
    Py_XDECREF(self->kind);
    Py_XDECREF(self->dtype);
    Py_XDECREF(self->shape);
    Py_XDECREF(self->misfit);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

PyDoc_STRVAR(packer_text,
             "Packer(kind, dtype, shape, misfit)\n--\n\n"
             "Packs values of this class: arrays of this dtype and shape as their bytes, others as\n"
             "they are. Of other values it raises `misfit`.");

static PyObject *packer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *dtype, *shape, *misfit;
    PyTypeObject *kind;
    if (!PyArg_ParseTuple(args, "O!O!O!O", &PyType_Type, &kind, &PyArrayDescr_Type, &dtype,
                          &PyTuple_Type, &shape, &misfit)) {
        return NULL;
    }
    Packer *self = (Packer *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->call = pack;
        self->kind = (PyTypeObject *)Py_NewRef(kind);
        self->dtype = Py_NewRef(dtype);
        self->shape = Py_NewRef(shape);
        self->misfit = Py_NewRef(misfit);
    }
    return (PyObject *)self;
}

static PyTypeObject packer_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jamboree_gym.compiled._compiled.Packer",
    .tp_basicsize = sizeof(Packer),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_doc = packer_text,
    .tp_vectorcall_offset = offsetof(Packer, call),
    .tp_call = PyVectorcall_Call,
    .tp_new = packer_new,
    .tp_dealloc = (destructor)packer_dealloc,
};
