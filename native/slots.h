/* Where the classes of Python keep what is read and written here: in slots, each at an offset of the
 * object. Included by plain_step.c. */

/* Where a class has this slot; -1 with an exception. */
static Py_ssize_t offset_of(PyObject *kind, const char *name)
{
    PyObject *member = PyObject_GetAttrString(kind, name);
    if (member == NULL) {
        return -1;
    }
    Py_ssize_t offset = -1;
    if (Py_TYPE(member) == &PyMemberDescr_Type) {
        offset = ((PyMemberDescrObject *)member)->d_member->offset;
    } else {
        PyErr_Format(PyExc_TypeError, "%s is no slot", name);
    }
    Py_DECREF(member);
    return offset;
}

enum { MOST_SLOTS = 21 };

/* A class, and where it has the slots that are used here. */
typedef struct {
    PyTypeObject *type;
    Py_ssize_t at[MOST_SLOTS];
} Slots;

#define VALUE(object, class, name) (*(PyObject **)((char *)(object) + (class).at[name]))

/* Find the slots of a class; 0 with an exception, and nothing is changed. */
static int find_slots(Slots *known, PyObject *type, const char *const *names, int count)
{
    Slots found = {(PyTypeObject *)type, {0}};
    for (int n = 0; n < count; n++) {
        found.at[n] = offset_of(type, names[n]);
        if (found.at[n] < 0) {
            return 0;
        }
    }
    Py_INCREF(type);
    Py_XDECREF(known->type);
    *known = found;
    return 1;
}

/* A slot's number; -1 where it holds none, or one below 0. */
static Py_ssize_t whole(PyObject *value)
{
    Py_ssize_t number = value != NULL && PyLong_CheckExact(value) ? PyLong_AsSsize_t(value) : -1;
    if (number < 0) {
        PyErr_Clear();
        return -1;
    }
    return number;
}

/* The memory of a slot; NULL where it holds none. */
static Py_buffer *memory_of(PyObject *value)
{
    if (value == NULL || !PyMemoryView_Check(value)) {
        return NULL;
    }
    Py_buffer *memory = PyMemoryView_GET_BUFFER(value);
    return memory->obj == NULL ? NULL : memory;
}

/* NaN where it is no float. */
static double seconds(PyObject *value)
{
    return value != NULL && PyFloat_CheckExact(value) ? PyFloat_AS_DOUBLE(value) : Py_NAN;
}
