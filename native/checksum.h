/* The CRC-32 of zlib. Included by plain_step.c. */

static PyObject *zlib_crc32;

enum { CRC_HELD = 5120 }; /* of more bytes, zlib gives the interpreter away: as in batch_format.py */

static int add_to_checksum(uint32_t *crc, const char *content, Py_ssize_t size)
{
    PyObject *memory = PyMemoryView_FromMemory((char *)content, size, PyBUF_READ);
    PyObject *before = PyLong_FromUnsignedLong(*crc), *sum = NULL;
    if (memory != NULL && before != NULL) {
        sum = PyObject_CallFunctionObjArgs(zlib_crc32, memory, before, NULL);
    }
    Py_XDECREF(memory);
    Py_XDECREF(before);
    if (sum == NULL) {
        return 0;
    }
    *crc = (uint32_t)PyLong_AsUnsignedLong(sum);
    Py_DECREF(sum);
    return 1;
}

/* Set a checksum for these bytes too, which follow those that it is of (0: none); 0 with an
 * exception. */
static int add_checksum(uint32_t *crc, const char *content, Py_ssize_t size)
{
    for (; size > CRC_HELD; content += CRC_HELD, size -= CRC_HELD) {
        if (!add_to_checksum(crc, content, CRC_HELD)) {
            return 0;
        }
    }
    return add_to_checksum(crc, content, size);
}
