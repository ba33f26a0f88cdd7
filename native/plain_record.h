/* Queues a record and writes it into the journal, as `RecordOutbox.append` does in Python, byte for
 * byte. Included by plain_step.c.
 *
 * Plain: the values are None, numbers, texts and bytes, and nothing has to be looked at. Whatever is
 * unusual, even a little, is left to Python: then nothing is written here. */

enum {
    CHECKED_BYTES,
    RECORD_CLOCK,
    ERROR,
    KEEP_RECORD,
    KEY_BYTES,
    RECORD_LATE_AT,
    OUTBOX_LOCK,
    RECORD_MARKED,
    PUT_COUNT,
    QUEUE,
    QUEUED_BYTES,
    RECORD_T_LAST,
    OUTBOX_SLOTS
};
enum { RECORD_LOG, JOURNAL_SLOTS };
enum { LOG_BLOCK, LOG_END, LOG_LOCK, LOG_SLOTS };
enum { BLOCK_CONTENT, BLOCK_SLOTS };

static const char *const outbox_slots[OUTBOX_SLOTS] = {
    "checked_bytes", "_clock", "error",      "_keep_record", "_key_bytes",    "late_at",
    "_lock",         "_marked", "_put_count", "_queue",       "_queued_bytes", "_t_last"};
static const char *const journal_slots[JOURNAL_SLOTS] = {"_records"};
static const char *const log_slots[LOG_SLOTS] = {"_block", "_end", "_lock"};
static const char *const block_slots[BLOCK_SLOTS] = {"content"};

static Slots record_outbox, journal, entry_log, block;
static PyTypeObject *lock_type;
static PyObject *encoder, *locked;
static Py_ssize_t check_after_bytes, check_every_bytes; /* as in writer.py */

/* Size and kind, then: is confirmed, length of the key, index, time. As in entry_log.py. */
typedef struct {
    uint32_t size, kind, is_confirmed, key_size;
    uint64_t index;
    double time_s;
} RecordHeader;

enum { RECORD_KIND = 3, KIND_END = 8, FIRST_BYTE = 64, LENGTH_WORD = 5, OVERHEAD_BYTES = 64 };

/* The log that the journal of an outbox has open; NULL where there is none. */
static PyObject *log_of(PyObject *outbox)
{
    PyObject *keep = VALUE(outbox, record_outbox, KEEP_RECORD);
    PyObject *keeper = keep != NULL && PyMethod_Check(keep) ? PyMethod_GET_SELF(keep) : NULL;
    PyObject *log = NULL;
    if (keeper != NULL && Py_TYPE(keeper) == journal.type) {
        log = VALUE(keeper, journal, RECORD_LOG);
    }
    return log != NULL && Py_TYPE(log) == entry_log.type ? log : NULL;
}

/* Whether another thread is between two changes. As long as nobody gives the interpreter away, it
 * stays so. */
static int is_locked(PyObject *lock)
{
    if (lock == NULL || Py_TYPE(lock) != lock_type) {
        return 1;
    }
    PyObject *answer = PyObject_CallMethodNoArgs(lock, locked);
    Py_XDECREF(answer); /* True and False stay */
    if (answer == NULL) {
        PyErr_Clear();
    }
    return answer != Py_False;
}

/* Whether a record has no value that can be changed, and no name that is taken. */
static int is_plain_record(PyObject *record, PyObject *reserved)
{
    PyObject *name, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(record, &at, &name, &value)) {
        if (!PyUnicode_CheckExact(name) ||
            !(value == Py_None || PyLong_CheckExact(value) || PyFloat_CheckExact(value) ||
              PyUnicode_CheckExact(value) || PyBool_Check(value) || PyBytes_CheckExact(value))) {
            return 0;
        }
        int is_taken = PySet_Contains(reserved, name);
        if (is_taken != 0) {
            PyErr_Clear();
            return 0;
        }
    }
    return 1;
}

/* Put an encoded record into log and queue; 0 if Python has to do it, -1 with an exception. `place`
 * and `entry` are new tuples. No code of Python runs here. */
static int put_record(PyObject *outbox, PyObject *now, PyObject *encoded, PyObject *place,
                      PyObject *entry)
{
    PyObject *log = log_of(outbox), *queue = VALUE(outbox, record_outbox, QUEUE);
    PyObject *key = VALUE(outbox, record_outbox, KEY_BYTES);
    if (log == NULL || VALUE(outbox, record_outbox, ERROR) != Py_None ||
        VALUE(outbox, record_outbox, RECORD_MARKED) != Py_True || key == NULL ||
        !PyBytes_CheckExact(key) || queue == NULL || !PyList_CheckExact(queue) ||
        is_locked(VALUE(outbox, record_outbox, OUTBOX_LOCK)) ||
        is_locked(VALUE(log, entry_log, LOG_LOCK))) {
        return 0;
    }
    double time_s = seconds(now), newest_s = seconds(VALUE(outbox, record_outbox, RECORD_T_LAST));
    if (!(time_s > newest_s && time_s <= seconds(VALUE(outbox, record_outbox, RECORD_LATE_AT)))) {
        return 0;
    }
    Py_ssize_t queued = whole(VALUE(outbox, record_outbox, QUEUED_BYTES));
    Py_ssize_t checked = whole(VALUE(outbox, record_outbox, CHECKED_BYTES));
    Py_ssize_t put = whole(VALUE(outbox, record_outbox, PUT_COUNT));
    Py_ssize_t size = PyBytes_GET_SIZE(encoded), key_size = PyBytes_GET_SIZE(key);
    queued += size + OVERHEAD_BYTES;
    if (checked < 0 || put < 0 ||
        (queued > check_after_bytes && Py_ABS(queued - checked) > check_every_bytes)) {
        return 0;
    }
    PyObject *target = VALUE(log, entry_log, LOG_BLOCK);
    if (target == NULL || Py_TYPE(target) != block.type) {
        return 0;
    }
    Py_buffer *content = memory_of(VALUE(target, block, BLOCK_CONTENT));
    Py_ssize_t at = whole(VALUE(log, entry_log, LOG_END)), whole_size, end;
    whole_size = (Py_ssize_t)sizeof(RecordHeader) + key_size + size;
    end = at + ((whole_size + 7) & ~(Py_ssize_t)7);
    if (content == NULL || content->readonly || at < FIRST_BYTE || end > content->len ||
        end > UINT32_MAX) {
        return 0;
    }
    PyObject *numbers[] = {PyLong_FromSsize_t(at + KIND_END), PyLong_FromSsize_t(end),
                           PyLong_FromSsize_t(queued), PyLong_FromSsize_t(put + 1)};
    PyTuple_SET_ITEM(place, 0, Py_NewRef(target));
    PyTuple_SET_ITEM(place, 1, numbers[0]);
    PyTuple_SET_ITEM(entry, 0, Py_NewRef(now));
    PyTuple_SET_ITEM(entry, 1, Py_NewRef(encoded));
    PyTuple_SET_ITEM(entry, 2, Py_NewRef(place));
    if (numbers[0] == NULL || numbers[1] == NULL || numbers[2] == NULL || numbers[3] == NULL ||
        PyList_Append(queue, entry) < 0) {
        Py_XDECREF(numbers[1]);
        Py_XDECREF(numbers[2]);
        Py_XDECREF(numbers[3]);
        return -1;
    }
    char *bytes = (char *)content->buf;
    RecordHeader header = {(uint32_t)(whole_size - KIND_END), RECORD_KIND, 0, (uint32_t)key_size,
                           UINT64_MAX /* never sent */,       time_s};
    memcpy(bytes + at, &header, sizeof header);
    memcpy(bytes + at + sizeof header, PyBytes_AS_STRING(key), key_size);
    memcpy(bytes + at + sizeof header + key_size, PyBytes_AS_STRING(encoded), size);
    /* from here on it is there */
    __atomic_store_n((uint32_t *)bytes + LENGTH_WORD, (uint32_t)(end - FIRST_BYTE),
                     __ATOMIC_RELEASE);
    Py_SETREF(VALUE(log, entry_log, LOG_END), numbers[1]);
    Py_SETREF(VALUE(outbox, record_outbox, QUEUED_BYTES), numbers[2]);
    Py_SETREF(VALUE(outbox, record_outbox, PUT_COUNT), numbers[3]);
    Py_SETREF(VALUE(outbox, record_outbox, RECORD_T_LAST), Py_NewRef(now));
    return 1;
}

PyDoc_STRVAR(append_plain_text,
             "append_plain(outbox, record, reserved)\n--\n\n"
             "Queue a record; whether it was, if not, nothing is changed.\n"
             "No field may have a name that is reserved.");

static PyObject *append_plain(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3 || !PyObject_TypeCheck(args[0], record_outbox.type) ||
        !PyFrozenSet_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError,
                        "append_plain takes a RecordOutbox, a record, and a frozenset of names");
        return NULL;
    }
    PyObject *outbox = args[0], *record = args[1], *clock;
    if (log_of(outbox) == NULL || !PyDict_CheckExact(record) ||
        !is_plain_record(record, args[2]) ||
        (clock = VALUE(outbox, record_outbox, RECORD_CLOCK)) == NULL) {
        Py_RETURN_FALSE;
    }
    PyObject *encoded = PyObject_CallOneArg(encoder, record);
    if (encoded == NULL || !PyBytes_CheckExact(encoded)) { /* Python says what is wrong with it */
        PyErr_Clear();
        Py_XDECREF(encoded);
        Py_RETURN_FALSE;
    }
    Py_INCREF(clock);
    PyObject *now = PyObject_CallNoArgs(clock);
    Py_DECREF(clock);
    /* The garbage collector may run any code here, and never after that. */
    PyObject *place = PyTuple_New(2), *entry = PyTuple_New(3);
    int done = -1;
    if (now != NULL && place != NULL && entry != NULL) {
        done = put_record(outbox, now, encoded, place, entry);
    }
    Py_DECREF(encoded);
    Py_XDECREF(now);
    Py_XDECREF(place);
    Py_XDECREF(entry);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyMethodDef append_plain_method = {
    "append_plain", (PyCFunction)(void (*)(void))append_plain, METH_FASTCALL, append_plain_text};

PyDoc_STRVAR(record_writer_of_text,
             "record_writer_of(outbox, journal, entry_log, block, lock, pack, after, every)\n--\n\n"
             "The function `append_plain`, for these classes. `pack` encodes a record. Of more than\n"
             "`after` bytes that wait, Python looks at them `every` so many bytes.");

static PyObject *record_writer_of(PyObject *module, PyObject *args)
{
    PyObject *outbox_type, *journal_type, *log_type, *block_type, *lock, *encode;
    Py_ssize_t after, every;
    if (!PyArg_ParseTuple(args, "O!O!O!O!O!Onn", &PyType_Type, &outbox_type, &PyType_Type,
                          &journal_type, &PyType_Type, &log_type, &PyType_Type, &block_type,
                          &PyType_Type, &lock, &encode, &after, &every) ||
        !find_slots(&record_outbox, outbox_type, outbox_slots, OUTBOX_SLOTS) ||
        !find_slots(&journal, journal_type, journal_slots, JOURNAL_SLOTS) ||
        !find_slots(&entry_log, log_type, log_slots, LOG_SLOTS) ||
        !find_slots(&block, block_type, block_slots, BLOCK_SLOTS)) {
        return NULL;
    }
    Py_XSETREF(lock_type, (PyTypeObject *)Py_NewRef(lock));
    Py_XSETREF(encoder, Py_NewRef(encode));
    check_after_bytes = after;
    check_every_bytes = every;
    return PyCFunction_New(&append_plain_method, NULL);
}
