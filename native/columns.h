/* Joins the columns of batches, as `join_columns` does in Python for all other schemas.
 * Included by plain_step.c. */

/* The body of a batch. */
typedef struct {
    Py_buffer content;
    Py_ssize_t rows;
} Body;

static void let_go(Body *bodies, Py_ssize_t count)
{
    for (Py_ssize_t n = 0; n < count; n++) {
        PyBuffer_Release(&bodies[n].content);
    }
    PyMem_Free(bodies);
}

/* The bodies of a tuple, NULL with an exception. */
static Body *bodies_of(PyObject *told, Py_ssize_t count)
{
    Body *bodies = PyMem_Calloc(count + 1, sizeof(Body));
    if (bodies == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t n = 0; n < count; n++) {
        PyObject *one = PyTuple_GET_ITEM(told, n);
        if (!PyTuple_Check(one)) {
            PyErr_SetString(PyExc_TypeError, "a body is a tuple");
        } else if (PyArg_ParseTuple(one, "y*n", &bodies[n].content, &bodies[n].rows)) {
            continue;
        }
        let_go(bodies, n);
        return NULL;
    }
    return bodies;
}

/* An array for the rows of all bodies; its values lie `start` bytes after the first column of a
 * body of one row. `size` is set to the bytes of a value. NULL with an exception. */
static PyObject *joined(const Body *bodies, Py_ssize_t count, Py_ssize_t begin, Py_ssize_t start,
                        PyArray_Descr *dtype, PyObject *shape, Py_ssize_t *size)
{
    npy_intp dimensions[NPY_MAXDIMS] = {0};
    Py_ssize_t ndim = PyTuple_GET_SIZE(shape);
    *size = is_number(dtype) ? size_of_shape(shape, PyDataType_ELSIZE(dtype)) : -1;
    if (*size < 0 || ndim >= NPY_MAXDIMS) {
        PyErr_SetString(PyExc_ValueError, "a column of numbers is needed");
        return NULL;
    }
    for (Py_ssize_t n = 0; n < count; n++) {
        Py_ssize_t rows = bodies[n].rows, room = bodies[n].content.len - begin;
        if (rows < 1 || room / rows < start + *size) {
            PyErr_SetString(PyExc_ValueError, "a body ends before its columns do");
            return NULL;
        }
        dimensions[0] += rows;
    }
    for (Py_ssize_t n = 0; n < ndim; n++) {
        dimensions[n + 1] = PyLong_AsSsize_t(PyTuple_GET_ITEM(shape, n));
    }
    Py_INCREF(dtype); /* for the array, also if it cannot be made */
    PyObject *array = PyArray_NewFromDescr(&PyArray_Type, dtype, (int)ndim + 1, dimensions, NULL,
                                           NULL, 0, NULL);
    if (array == NULL) {
        return NULL;
    }
    char *target = PyArray_BYTES((PyArrayObject *)array);
    for (Py_ssize_t n = 0; n < count; n++) {
        Py_ssize_t rows = bodies[n].rows;
        memcpy(target, (char *)bodies[n].content.buf + begin + rows * start, rows * *size);
        target += rows * *size;
    }
    if (PyTypeNum_ISBOOL(dtype->type_num)) {
        for (char *flag = PyArray_BYTES((PyArrayObject *)array); flag < target; flag++) {
            *flag &= 1;
        }
    }
    return array;
}

PyDoc_STRVAR(join_columns_text,
             "join_columns(bodies, begin, columns)\n--\n\n"
             "An array of each column of several batches, which lie one behind the other.\n"
             "Of each body it is told how many rows it has, of each column dtype and shape.\n"
             "The columns begin at this byte of a body.");

static PyObject *join_columns(PyObject *module, PyObject *args)
{
    PyObject *told, *columns;
    Py_ssize_t begin, start = 0;
    if (!PyArg_ParseTuple(args, "O!nO!", &PyTuple_Type, &told, &begin, &PyTuple_Type, &columns)) {
        return NULL;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(told), column_count = PyTuple_GET_SIZE(columns);
    Body *bodies = bodies_of(told, count);
    PyObject *arrays = bodies == NULL ? NULL : PyList_New(column_count);
    for (Py_ssize_t n = 0; arrays != NULL && n < column_count; n++) {
        PyObject *column = PyTuple_GET_ITEM(columns, n), *array = NULL, *shape;
        PyArray_Descr *dtype;
        Py_ssize_t size = 0;
        if (!PyTuple_Check(column)) {
            PyErr_SetString(PyExc_TypeError, "a column is a tuple");
        } else if (PyArg_ParseTuple(column, "O!O!", &PyArrayDescr_Type, &dtype, &PyTuple_Type,
                                    &shape)) {
            array = joined(bodies, count, begin, start, dtype, shape, &size);
        }
        if (array == NULL) {
            Py_CLEAR(arrays);
        } else {
            PyList_SET_ITEM(arrays, n, array);
            start += size;
        }
    }
    if (bodies != NULL) {
        let_go(bodies, count);
    }
    return arrays;
}
