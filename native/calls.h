/* Packs the calls of a round trip, as hiredis does: its `sprintf` takes 1,100 instructions for each
 * argument. Included by plain_step.c. */

/* An argument of a call. */
typedef struct {
    PyObject *owner; /* of the text of a number */
    Py_buffer content;
} Argument;

/* Look at the content of an argument; 0 with an exception if it has none. */
static int look_at(Argument *argument, PyObject *value)
{
    if (PyLong_Check(value) || PyFloat_Check(value)) {
        value = argument->owner = PyObject_Str(value);
        if (value == NULL) {
            return 0;
        }
    }
    if (!PyUnicode_Check(value)) {
        return PyObject_GetBuffer(value, &argument->content, PyBUF_SIMPLE) == 0;
    }
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(value, &size);
    return text != NULL && PyBuffer_FillInfo(&argument->content, NULL, (char *)text, size, 1,
                                             PyBUF_SIMPLE) == 0;
}

enum { MOST_DIGITS = 20 };

/* Write `*3\r\n` or `$3\r\n`; where it ends. */
static char *put_length(char *target, char kind, Py_ssize_t length)
{
    char digits[MOST_DIGITS];
    int count = 0;
    do {
        digits[count++] = '0' + length % 10;
        length /= 10;
    } while (length > 0);
    *target++ = kind;
    while (count > 0) {
        *target++ = digits[--count];
    }
    *target++ = '\r';
    *target++ = '\n';
    return target;
}

enum { MOST_AROUND = MOST_DIGITS + 5 }; /* bytes around an argument */

static char *put_arguments(char *target, const Argument *arguments, Py_ssize_t count)
{
    target = put_length(target, '*', count);
    for (Py_ssize_t n = 0; n < count; n++) {
        const Py_buffer *content = &arguments[n].content;
        target = put_length(target, '$', content->len);
        memcpy(target, content->buf, content->len);
        target += content->len;
        *target++ = '\r';
        *target++ = '\n';
    }
    return target;
}

PyDoc_STRVAR(pack_call_text,
             "pack_call(call)\n--\n\n"
             "The bytes that tell a server of Redis a call: a tuple of texts, bytes and numbers.");

static PyObject *pack_call(PyObject *module, PyObject *call)
{
    if (!PyTuple_Check(call)) {
        PyErr_SetString(PyExc_TypeError, "a call is a tuple");
        return NULL;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(call), seen = 0, room = MOST_AROUND;
    Argument *arguments = PyMem_Calloc(count + 1, sizeof(Argument));
    if (arguments == NULL) {
        return PyErr_NoMemory();
    }
    while (seen < count && look_at(&arguments[seen], PyTuple_GET_ITEM(call, seen))) {
        room += MOST_AROUND + arguments[seen++].content.len;
    }
    PyObject *packed = seen < count ? NULL : PyBytes_FromStringAndSize(NULL, room);
    if (packed != NULL) {
        char *content = PyBytes_AS_STRING(packed);
        _PyBytes_Resize(&packed, put_arguments(content, arguments, count) - content);
    }
    for (Py_ssize_t n = 0; n <= seen; n++) { /* also that which could not be looked at */
        PyBuffer_Release(&arguments[n].content);
        Py_XDECREF(arguments[n].owner);
    }
    PyMem_Free(arguments);
    return packed;
}
