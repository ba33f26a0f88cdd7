/* Copies the newest rows of an episode, as `RowBuffer.recent_copy` does in Python, and makes the
 * `Transitions` that read them later. Included by plain_step.c. */

enum { EXTENTS, SCHEMAS, ENCODED_BYTES, BUFFER_SLOTS };
enum { EXTENT_CONTENT, EXTENT_WORDS, EXTENT_COUNT_AT, EXTENT_FIRST_AT, EXTENT_START, ROW_FORMAT,
       EXTENT_SLOTS };
enum { ROW_BYTES, ROW_DTYPE, FORMAT_SLOTS };
enum { MAKE, RECORD_SLOTS };

static const char *const buffer_slots[] = {"_extents", "_schemas", "_variable_bytes_put"};
static const char *const extent_slots[] = {"content", "words", "count_at",
                                           "first_at", "start", "row_format"};
static const char *const format_slots[] = {"nbytes", "dtype"};
static const char *const record_slots[] = {"_make"};

static Slots row_buffer, extent, row_format, transitions;
static PyObject *made_of_window; /* makes the fields of `Transitions` */

/* The newest n rows and the one before them, as bytes; `start` is set to the number of the first.
 * NULL without an exception where they do not lie in this extent. */
static PyObject *copy_of_newest(PyObject *rows, Py_ssize_t n, Py_ssize_t nbytes, Py_ssize_t *start)
{
    Py_buffer *content = memory_of(VALUE(rows, extent, EXTENT_CONTENT));
    Py_buffer *words = memory_of(VALUE(rows, extent, EXTENT_WORDS));
    Py_ssize_t count_at = whole(VALUE(rows, extent, EXTENT_COUNT_AT));
    Py_ssize_t first_at = whole(VALUE(rows, extent, EXTENT_FIRST_AT));
    *start = whole(VALUE(rows, extent, EXTENT_START));
    if (content == NULL || words == NULL || count_at < 0 || first_at < 0 || *start < 0 ||
        count_at >= words->len / (Py_ssize_t)sizeof(uint32_t)) {
        return NULL;
    }
    Py_ssize_t stop = __atomic_load_n((uint32_t *)words->buf + count_at, __ATOMIC_ACQUIRE);
    Py_ssize_t first = n < stop ? stop - n - 1 : 0;
    if (stop == 0 || (n >= stop && *start != 0) ||
        (content->len - first_at) / nbytes < stop) {
        return NULL;
    }
    *start += first;
    const char *bytes = (char *)content->buf + first_at + first * nbytes;
    return PyBytes_FromStringAndSize(bytes, (stop - first) * nbytes);
}

/* Fill a tuple with what `made_of_window` needs; 0 where Python has to do it, -1 with an exception.
 * No code of Python runs meanwhile. */
static int put_window(PyObject *held, PyObject *number, PyObject *window)
{
    PyObject *extents = VALUE(held, row_buffer, EXTENTS);
    PyObject *schemas = VALUE(held, row_buffer, SCHEMAS);
    Py_ssize_t n = whole(number), size = extents == NULL ? 0 : PyList_GET_SIZE(extents), start;
    if (n < 0 || size == 0 || schemas == NULL ||
        whole(VALUE(held, row_buffer, ENCODED_BYTES)) != 0) {
        return 0;
    }
    PyObject *rows = PyList_GET_ITEM(extents, size - 1);
    PyObject *format = Py_TYPE(rows) == extent.type ? VALUE(rows, extent, ROW_FORMAT) : NULL;
    if (format == NULL || Py_TYPE(format) != row_format.type) {
        return 0;
    }
    PyObject *dtype = VALUE(format, row_format, ROW_DTYPE);
    Py_ssize_t nbytes = whole(VALUE(format, row_format, ROW_BYTES));
    PyObject *copy = nbytes < 1 || dtype == NULL ? NULL : copy_of_newest(rows, n, nbytes, &start);
    PyObject *first = copy == NULL ? NULL : PyLong_FromSsize_t(start);
    if (first == NULL) {
        Py_XDECREF(copy);
        return PyErr_Occurred() ? -1 : 0;
    }
    PyTuple_SET_ITEM(window, 0, Py_NewRef(made_of_window));
    PyTuple_SET_ITEM(window, 1, copy);
    PyTuple_SET_ITEM(window, 2, Py_NewRef(dtype));
    PyTuple_SET_ITEM(window, 3, first);
    PyTuple_SET_ITEM(window, 4, Py_NewRef(schemas));
    return 1;
}

PyDoc_STRVAR(newest_text, "newest_in_block(held, n)\n--\n\n"
                          "The newest n transitions; None where the rows do not lie in one block.");

static PyObject *newest(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyObject_TypeCheck(args[0], row_buffer.type)) {
        PyErr_SetString(PyExc_TypeError, "newest_in_block takes a RowBuffer and a number");
        return NULL;
    }
    PyObject *window = PyTuple_New(5);
    int done = window == NULL ? -1 : put_window(args[0], args[1], window);
    PyObject *made = done > 0 ? transitions.type->tp_alloc(transitions.type, 0) : NULL;
    if (made == NULL) {
        Py_XDECREF(window);
        return done == 0 ? Py_NewRef(Py_None) : NULL;
    }
    VALUE(made, transitions, MAKE) = window;
    return made;
}

static PyMethodDef newest_method = {"newest_in_block",
                                    (PyCFunction)(void (*)(void))newest, METH_FASTCALL,
                                    newest_text};

PyDoc_STRVAR(newest_of_text,
             "newest_of(row_buffer, extent, row_format, transitions, made_of_window)\n--\n\n"
             "The function `newest_in_block`, for these classes.");

static PyObject *newest_of(PyObject *module, PyObject *args)
{
    PyObject *buffer_type, *extent_type, *format_type, *record_type, *make;
    if (!PyArg_ParseTuple(args, "O!O!O!O!O", &PyType_Type, &buffer_type, &PyType_Type, &extent_type,
                          &PyType_Type, &format_type, &PyType_Type, &record_type, &make) ||
        !find_slots(&row_buffer, buffer_type, buffer_slots, BUFFER_SLOTS) ||
        !find_slots(&extent, extent_type, extent_slots, EXTENT_SLOTS) ||
        !find_slots(&row_format, format_type, format_slots, FORMAT_SLOTS) ||
        !find_slots(&transitions, record_type, record_slots, RECORD_SLOTS)) {
        return NULL;
    }
    Py_XSETREF(made_of_window, Py_NewRef(make));
    return PyCFunction_New(&newest_method, NULL);
}
