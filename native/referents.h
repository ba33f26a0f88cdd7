/* Looks for objects of a class among those that another object refers to, as `_may_hold` does in
 * hidden_generators.py. Included by plain_step.c. */

typedef struct {
    PyTypeObject *kind;
    Py_ssize_t most; /* dicts with more values are not searched: they may have one */
    int is_found;
} Search;

static int look_for(PyObject *one, void *told)
{
    Search *search = told;
    search->is_found |= PyType_IsSubtype(Py_TYPE(one), search->kind);
    if (PyDict_CheckExact(one)) {
        search->is_found |= PyDict_GET_SIZE(one) > search->most;
        PyObject *value;
        Py_ssize_t next = 0;
        while (!search->is_found && PyDict_Next(one, &next, NULL, &value)) {
            search->is_found = PyType_IsSubtype(Py_TYPE(value), search->kind);
        }
    }
    return search->is_found; /* to go on with the next one, or not */
}

PyDoc_STRVAR(may_refer_to_text,
             "may_refer_to(one, kind, most)\n--\n\n"
             "Whether an object of this class is among those that one refers to, or in a dict\n"
             "among them; also if a dict has more values than that.");

static PyObject *may_refer_to(PyObject *module, PyObject *args)
{
    PyObject *one;
    Search search = {.is_found = 0};
    if (!PyArg_ParseTuple(args, "OO!n", &one, &PyType_Type, &search.kind, &search.most)) {
        return NULL;
    }
    if (PyObject_IS_GC(one) && Py_TYPE(one)->tp_traverse != NULL) {
        Py_TYPE(one)->tp_traverse(one, look_for, &search);
    }
    return PyBool_FromLong(search.is_found);
}
