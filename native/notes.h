/* Encodes the summary of an episode and the note of its log's head, as `SummaryTemplate.encode` and
 * `encode_episode_note` do in Python, byte for byte. Included by plain_step.c. */

enum { CHECKSUM_BYTES = 4, MOST_BEFORE = 9 }; /* of msgpack: a number, or what precedes bytes */

static char *put_large_end_first(char *target, uint64_t number, int size)
{
    while (size > 0) {
        *target++ = (char)(number >> 8 * --size);
    }
    return target;
}

/* Write a number of at least 0 as msgpack has it; where it ends. */
static char *put_count(char *target, uint64_t number)
{
    if (number < 0x80) {
        *target++ = (char)number;
        return target;
    }
    int power = number <= UINT8_MAX ? 0 : number <= UINT16_MAX ? 1 : number <= UINT32_MAX ? 2 : 3;
    *target++ = (char)(0xCC + power);
    return put_large_end_first(target, number, 1 << power);
}

/* Write bytes as msgpack has them, fewer than 2^32; where they end. */
static char *put_bytes(char *target, PyObject *content)
{
    Py_ssize_t size = PyBytes_GET_SIZE(content);
    int power = size <= UINT8_MAX ? 0 : size <= UINT16_MAX ? 1 : 2;
    *target++ = (char)(0xC4 + power);
    target = put_large_end_first(target, size, 1 << power);
    memcpy(target, PyBytes_AS_STRING(content), size);
    return target + size;
}

enum { SHORT_TEXT = 32 }; /* longer ones are left to Python */

/* Write a value as msgpack has it; where it ends, NULL if it is none that is written here. */
static char *put_packed(char *target, PyObject *value)
{
    if (PyFloat_CheckExact(value)) {
        *target++ = (char)0xCB;
        return PyFloat_Pack8(PyFloat_AS_DOUBLE(value), target, 0) < 0 ? NULL : target + 8;
    }
    if (PyLong_CheckExact(value)) {
        int overflow;
        long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
        return overflow || number < 0 ? NULL : put_count(target, number);
    }
    if (PyBytes_CheckExact(value)) {
        return put_bytes(target, value);
    }
    if (value == Py_None) {
        *target++ = (char)0xC0;
        return target;
    }
    if (!PyUnicode_CheckExact(value) || !PyUnicode_IS_COMPACT_ASCII(value) ||
        PyUnicode_GET_LENGTH(value) >= SHORT_TEXT) {
        return NULL;
    }
    *target++ = (char)(0xA0 + PyUnicode_GET_LENGTH(value));
    memcpy(target, PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value));
    return target + PyUnicode_GET_LENGTH(value);
}

/* Bytes for a checksum and at most so many behind it; NULL with an exception. */
static PyObject *with_checksum(Py_ssize_t room)
{
    return PyBytes_FromStringAndSize(NULL, CHECKSUM_BYTES + room);
}

/* Cut what was not needed, and write the checksum of the rest; NULL with an exception. */
static PyObject *checked(PyObject *content, const char *end)
{
    if (_PyBytes_Resize(&content, end - PyBytes_AS_STRING(content)) < 0) {
        return NULL;
    }
    char *begin = PyBytes_AS_STRING(content);
    Py_ssize_t size = PyBytes_GET_SIZE(content) - CHECKSUM_BYTES;
    uint32_t crc = 0;
    if (!add_checksum(&crc, begin + CHECKSUM_BYTES, size)) {
        Py_DECREF(content);
        return NULL;
    }
    memcpy(begin, &crc, sizeof crc);
    return content;
}

/* The summary; Py_None if a value is none that is written here, NULL with an exception. */
static PyObject *summary_of(PyObject *first, PyObject *values, PyObject *last)
{
    Py_ssize_t room = PyBytes_GET_SIZE(first) + PyBytes_GET_SIZE(last);
    for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(values); n++) {
        PyObject *value = PyTuple_GET_ITEM(values, n);
        room += SHORT_TEXT + (PyBytes_CheckExact(value) ? PyBytes_GET_SIZE(value) : 0);
    }
    if (room > UINT32_MAX) {
        Py_RETURN_NONE;
    }
    PyObject *summary = with_checksum(room);
    if (summary == NULL) {
        return NULL;
    }
    char *next = PyBytes_AS_STRING(summary) + CHECKSUM_BYTES;
    memcpy(next, PyBytes_AS_STRING(first), PyBytes_GET_SIZE(first));
    next += PyBytes_GET_SIZE(first);
    for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(values); n++) {
        next = put_packed(next, PyTuple_GET_ITEM(values, n));
        if (next == NULL) {
            Py_DECREF(summary);
            Py_RETURN_NONE;
        }
    }
    memcpy(next, PyBytes_AS_STRING(last), PyBytes_GET_SIZE(last));
    return checked(summary, next + PyBytes_GET_SIZE(last));
}

PyDoc_STRVAR(encode_note_text,
             "encode_note(first, values, last, origin)\n--\n\n"
             "The summary of an episode, and the note of its log's head. In the summary, `first`\n"
             "and `last` stand around the values. None if Python has to encode a value.");

static PyObject *encode_note(PyObject *module, PyObject *args)
{
    PyObject *first, *values, *last, *origin;
    if (!PyArg_ParseTuple(args, "SO!SS", &first, &PyTuple_Type, &values, &last, &origin)) {
        return NULL;
    }
    PyObject *summary = PyBytes_GET_SIZE(origin) > UINT32_MAX ? Py_NewRef(Py_None)
                                                              : summary_of(first, values, last);
    if (summary == NULL || summary == Py_None) {
        return summary;
    }
    Py_ssize_t room = 1 + 2 * MOST_BEFORE + PyBytes_GET_SIZE(summary) + PyBytes_GET_SIZE(origin);
    PyObject *note = with_checksum(room);
    if (note != NULL) {
        char *next = PyBytes_AS_STRING(note) + CHECKSUM_BYTES;
        *next++ = (char)0x92;
        note = checked(note, put_bytes(put_bytes(next, summary), origin));
    }
    if (note == NULL) {
        Py_DECREF(summary);
        return NULL;
    }
    return Py_BuildValue("NN", summary, note);
}
