/* Makes batches of rows, as `encode_step_batches` does in Python, byte for byte.
 * Included by plain_step.c. */

/* The header of a batch: `<2sBBIQ8sdd` in batch_format.py, then its checksum. */
enum {
    BATCH_COUNT_AT = 4,
    BATCH_START_AT = 8,
    FIRST_TIME_AT = 24,
    LAST_TIME_AT = 32,
    CRC_AT = 40,
    BODY_AT = 44,
};

/* What a body begins with: `<8sII` in column_batch.py. */
enum { INFO_COUNT_AT = 8, PREFIX_BYTES = 16 };

/* Where a column is in a row. */
typedef struct {
    Py_ssize_t at, size;
    int mask; /* of a flag, which is a bit there; else 0 */
} Column;

/* The columns of a tuple, NULL with an exception. `row_bytes` bounds where they are, and
 * `column_bytes` is set to the bytes of a row in all columns. */
static Column *columns_of(PyObject *told, Py_ssize_t row_bytes, Py_ssize_t *column_bytes)
{
    Py_ssize_t count = PyTuple_GET_SIZE(told);
    Column *columns = PyMem_Calloc(count + 1, sizeof(Column));
    if (columns == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    *column_bytes = 0;
    for (Py_ssize_t n = 0; n < count; n++) {
        PyObject *one = PyTuple_GET_ITEM(told, n);
        Column *column = &columns[n];
        if (!PyTuple_Check(one)) {
            PyErr_SetString(PyExc_TypeError, "a column is a tuple");
        } else if (PyArg_ParseTuple(one, "nni", &column->at, &column->size, &column->mask)) {
            if (column->at >= 0 && column->size >= 1 && column->at <= row_bytes - column->size &&
                (column->mask == 0 || column->size == 1)) {
                *column_bytes += column->size;
                continue;
            }
            PyErr_SetString(PyExc_ValueError, "a column lies outside the rows");
        }
        PyMem_Free(columns);
        return NULL;
    }
    return columns;
}

/* Write a column of these rows; where it ends. */
static char *put_column(char *target, const Column *column, const char *row, Py_ssize_t row_bytes,
                        Py_ssize_t count)
{
    const char *value = row + column->at, *end = value + count * row_bytes;
    if (column->mask != 0) {
        for (; value != end; value += row_bytes) {
            *target++ = (*value & column->mask) != 0;
        }
    } else if (column->size == sizeof(uint64_t)) { /* most are; the compiler copies it at once */
        for (; value != end; value += row_bytes, target += sizeof(uint64_t)) {
            memcpy(target, value, sizeof(uint64_t));
        }
    } else {
        for (; value != end; value += row_bytes, target += column->size) {
            memcpy(target, value, column->size);
        }
    }
    return target;
}

/* What all batches of a call have in common. */
typedef struct {
    Py_buffer header, prefix;
    Column *columns;
    Py_ssize_t column_count, column_bytes, row_bytes, time_at, info_at;
} Form;

/* An info in a block, as its row says it. */
typedef struct {
    uint32_t at, size;
} InfoPlace;

static InfoPlace info_place(const Form *form, const char *row)
{
    InfoPlace place;
    memcpy(&place, row + form->info_at, sizeof place);
    return place;
}

/* Count the infos of these rows that are not empty, and their bytes; 0 with an exception. */
static int count_infos(const Form *form, const char *rows, uint32_t count, const Py_buffer *block,
                       uint32_t *info_count, Py_ssize_t *info_bytes)
{
    *info_count = 0;
    *info_bytes = 0;
    for (uint32_t n = 0; block->buf != NULL && n < count; n++) {
        InfoPlace place = info_place(form, rows + n * form->row_bytes);
        if (place.size > block->len || place.at > block->len - place.size) {
            PyErr_SetString(PyExc_ValueError, "an info lies outside its block");
            return 0;
        }
        *info_count += place.size != 0;
        *info_bytes += place.size;
    }
    if (*info_bytes > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "there are more infos than a batch can have");
        return 0;
    }
    return 1;
}

/* Write the infos of these rows: which rows they are, where each ends, and their bytes. */
static void put_infos(char *target, const Form *form, const char *rows, uint32_t count,
                      const Py_buffer *block, uint32_t info_count)
{
    char *ends = target + info_count * sizeof(uint32_t);
    char *contents = ends + info_count * sizeof(uint32_t);
    uint32_t end = 0;
    for (uint32_t n = 0; n < count; n++) {
        InfoPlace place = info_place(form, rows + n * form->row_bytes);
        if (place.size != 0) {
            memcpy(contents + end, (char *)block->buf + place.at, place.size);
            end += place.size;
            memcpy(target, &n, sizeof n);
            memcpy(ends, &end, sizeof end);
            target += sizeof n;
            ends += sizeof end;
        }
    }
}

/* A batch of so many rows, the first of which has this number; NULL with an exception. */
static PyObject *batch_of(const Form *form, const char *rows, uint64_t start, uint32_t count,
                          const Py_buffer *block)
{
    uint32_t info_count;
    Py_ssize_t info_bytes, body_bytes = form->prefix.len + count * form->column_bytes;
    if (!count_infos(form, rows, count, block, &info_count, &info_bytes)) {
        return NULL;
    }
    body_bytes += info_count * 2 * sizeof(uint32_t) + info_bytes;
    PyObject *batch = PyBytes_FromStringAndSize(NULL, BODY_AT + body_bytes);
    if (batch == NULL) {
        return NULL;
    }
    const char *newest = rows + (count - 1) * form->row_bytes;
    char *header = PyBytes_AS_STRING(batch), *body = header + BODY_AT;
    memcpy(header, form->header.buf, CRC_AT);
    memcpy(header + BATCH_COUNT_AT, &count, sizeof count);
    memcpy(header + BATCH_START_AT, &start, sizeof start);
    memcpy(header + FIRST_TIME_AT, rows + form->time_at, sizeof(double));
    memcpy(header + LAST_TIME_AT, newest + form->time_at, sizeof(double));
    memcpy(body, form->prefix.buf, form->prefix.len);
    char *target = body + form->prefix.len;
    for (Py_ssize_t n = 0; n < form->column_count; n++) {
        target = put_column(target, &form->columns[n], rows, form->row_bytes, count);
    }
    if (info_count != 0) {
        memcpy(body + INFO_COUNT_AT, &info_count, sizeof info_count);
        put_infos(target, form, rows, count, block, info_count);
    }
    uint32_t crc = 0;
    if (!add_checksum(&crc, header, CRC_AT) || !add_checksum(&crc, body, body_bytes)) {
        Py_DECREF(batch);
        return NULL;
    }
    memcpy(header + CRC_AT, &crc, sizeof crc);
    return batch;
}

/* The batches of all parts; NULL with an exception. */
static PyObject *batches_of(const Form *form, const Py_buffer *rows, PyObject *parts)
{
    PyObject *batches = PyList_New(PyTuple_GET_SIZE(parts));
    Py_ssize_t left = rows->len / form->row_bytes;
    const char *row = rows->buf;
    for (Py_ssize_t n = 0; batches != NULL && n < PyTuple_GET_SIZE(parts); n++) {
        PyObject *part = PyTuple_GET_ITEM(parts, n), *batch = NULL;
        Py_buffer block = {0};
        unsigned long long start;
        Py_ssize_t count;
        if (!PyTuple_Check(part)) {
            PyErr_SetString(PyExc_TypeError, "a part is a tuple");
        } else if (PyArg_ParseTuple(part, "Knz*", &start, &count, &block)) {
            if (count < 1 || count > left || count > UINT32_MAX) {
                PyErr_SetString(PyExc_ValueError, "there are not so many rows");
            } else {
                batch = batch_of(form, row, start, (uint32_t)count, &block);
            }
        }
        PyBuffer_Release(&block);
        if (batch == NULL) {
            Py_CLEAR(batches);
        } else {
            PyList_SET_ITEM(batches, n, batch);
            row += count * form->row_bytes;
            left -= count;
        }
    }
    return batches;
}

PyDoc_STRVAR(encode_batches_text,
             "encode_batches(rows, row_bytes, columns, time_at, info_at, header, prefix, parts)\n"
             "--\n\n"
             "Batches of rows that lie one behind the other. Of each column it is told where it\n"
             "is in a row, its bytes there, and which bit of them it is (0: all of them), and of\n"
             "each part the number of its first row, of its rows, and the block that has their\n"
             "infos, None if they have none. Each batch has this header, where count, number and\n"
             "times are still missing, and this prefix of its body, where that of infos is.");

static PyObject *encode_batches(PyObject *module, PyObject *args)
{
    Form form;
    Py_buffer rows;
    PyObject *columns, *parts, *batches = NULL;
    if (!PyArg_ParseTuple(args, "y*nO!nny*y*O!", &rows, &form.row_bytes, &PyTuple_Type,
                          &columns, &form.time_at, &form.info_at, &form.header, &form.prefix, &PyTuple_Type, &parts)) {
        return NULL;
    }
    form.column_count = PyTuple_GET_SIZE(columns);
    form.columns = columns_of(columns, form.row_bytes, &form.column_bytes);
    if (form.columns != NULL) {
        if (form.header.len != CRC_AT || form.prefix.len != PREFIX_BYTES || form.time_at < 0 ||
            form.time_at > form.row_bytes - (Py_ssize_t)sizeof(double) || form.info_at < 0 ||
            form.info_at > form.row_bytes - (Py_ssize_t)sizeof(InfoPlace)) {
            PyErr_SetString(PyExc_ValueError, "header, prefix, and in each row a time and the "
                                              "place of an info are needed");
        } else {
            batches = batches_of(&form, &rows, parts);
        }
    }
    PyMem_Free(form.columns);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&form.header);
    PyBuffer_Release(&form.prefix);
    return batches;
}

PyDoc_STRVAR(add_up_text,
             "add_up(rows, row_bytes, at, counts, before)\n--\n\n"
             "The sum of the floats at this offset of rows that lie one behind the other, for each\n"
             "part of so many rows; added one by one to what was before.");

static PyObject *add_up(PyObject *module, PyObject *args)
{
    Py_buffer rows;
    PyObject *counts, *before, *sums = NULL;
    Py_ssize_t row_bytes, at;
    if (!PyArg_ParseTuple(args, "y*nnO!O!", &rows, &row_bytes, &at, &PyList_Type, &counts,
                          &PyList_Type, &before)) {
        return NULL;
    }
    const char *row = rows.buf, *end = row + rows.len;
    if (row_bytes < 1 || at < 0 || at > row_bytes - (Py_ssize_t)sizeof(double) ||
        PyList_GET_SIZE(counts) != PyList_GET_SIZE(before)) {
        PyErr_SetString(PyExc_ValueError, "a row has no such float, or a part is missing");
    } else {
        sums = PyList_New(PyList_GET_SIZE(counts));
    }
    for (Py_ssize_t n = 0; sums != NULL && n < PyList_GET_SIZE(sums); n++) {
        Py_ssize_t count = PyLong_AsSsize_t(PyList_GET_ITEM(counts, n));
        double sum = PyFloat_AsDouble(PyList_GET_ITEM(before, n)), value;
        if (!PyErr_Occurred() && (count < 0 || count > (end - row) / row_bytes)) {
            PyErr_SetString(PyExc_ValueError, "there are not so many rows");
        }
        PyObject *one = NULL;
        if (!PyErr_Occurred()) {
            for (; count > 0; count--, row += row_bytes) {
                memcpy(&value, row + at, sizeof value);
                sum += value;
            }
            one = PyFloat_FromDouble(sum);
        }
        if (one == NULL) {
            Py_CLEAR(sums);
        } else {
            PyList_SET_ITEM(sums, n, one);
        }
    }
    PyBuffer_Release(&rows);
    return sums;
}
