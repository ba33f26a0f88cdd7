/* The CRC-32 of zlib. Included by plain_step.c. */

static PyObject *zlib_crc32;

/* Set it for these bytes, which follow those whose checksum was `*crc` (0: none); 0 with an
 * exception. */
static int add_checksum(uint32_t *crc, const char *content, Py_ssize_t size)
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
