#include "straight.h"

#include <array>

namespace lossless {
namespace {

bool is_option(nb::handle a) {
    return a.is_none() || PyBool_Check(a.ptr()) || PyLong_CheckExact(a.ptr()) || PyFloat_CheckExact(a.ptr()) ||
           PyUnicode_CheckExact(a.ptr());
}

// What the checks of a call see of an argument: an option itself; the element and the shape of an ordinary tensor, as
// bytes. Or nothing.
nb::object form_of(nb::handle a, bool first) {
    if (is_option(a)) return nb::borrow(a);
    std::vector<int64_t> form;
    const bool seen = is_ordinary(a, first, [&](const Array& array) {
        form.push_back(int(array.element));
        form.insert(form.end(), array.shape, array.shape + array.ndim);
        return true;
    });
    return seen ? nb::object(nb::bytes(form.data(), form.size() * sizeof(int64_t))) : nb::object();
}

bool has_form(nb::handle a, nb::handle form, bool first) {
    if (a.is(form)) return true;
    if (!PyBytes_CheckExact(form.ptr()))
        return Py_TYPE(a.ptr()) == Py_TYPE(form.ptr()) && PyObject_RichCompareBool(a.ptr(), form.ptr(), Py_EQ) == 1;
    return is_ordinary(a, first, [&](const Array& array) {
        const char* bytes = PyBytes_AS_STRING(form.ptr());
        const int64_t element = int(array.element), sizes = array.ndim * int64_t(sizeof(int64_t));
        return PyBytes_GET_SIZE(form.ptr()) == int64_t(sizeof element) + sizes &&
               std::memcmp(bytes, &element, sizeof element) == 0 &&
               (sizes == 0 || std::memcmp(bytes + sizeof element, array.shape, sizes) == 0);
    });
}

// Whether a call has the form: that of its arguments in their order, and the names of the last.
bool has_forms(nb::tuple args, nb::dict kwargs, nb::handle form) {
    const nb::handle forms = item(form, 0), names = item(form, 1);
    const Py_ssize_t positional = PyTuple_GET_SIZE(args.ptr()), named = PyDict_GET_SIZE(kwargs.ptr());
    if (PyTuple_Size(forms.ptr()) != positional + named || PyTuple_Size(names.ptr()) != named) return false;
    for (Py_ssize_t i = 0; i < positional; i++)
        if (!has_form(item(args, i), item(forms, i), i == 0)) return false;
    PyObject *name, *a;
    Py_ssize_t place = 0;
    for (Py_ssize_t i = 0; PyDict_Next(kwargs.ptr(), &place, &name, &a); i++)
        if (!item(names, i).is(name) || !has_form(a, item(forms, positional + i), positional + i == 0)) return false;
    return true;
}

nb::object by_kernel(nb::handle way, nb::tuple args, nb::dict kwargs) {
    static const Name recorded("recorded"), forward("forward");
    const nb::handle kernel = item(way, 0), places = item(way, 1), rest = item(way, 2);
    std::array<PyObject*, 16> given; // two for the context and what comes before it
    size_t count = 2;
    const auto add = [&](nb::handle a) {
        if (!a || count == given.size()) throw nb::value_error("a way that fits no call");
        given[count++] = a.ptr();
    };
    for (Py_ssize_t i = 0; i < PyTuple_Size(places.ptr()); i++) {
        const nb::handle place = item(places, i);
        add(PyLong_CheckExact(place.ptr()) ? item(args, PyLong_AsSsize_t(place.ptr()))
                                           : nb::handle(PyDict_GetItemWithError(kwargs.ptr(), place.ptr())));
    }
    for (Py_ssize_t i = 0; i < PyTuple_Size(rest.ptr()); i++) add(item(rest, i));
    if (count == 2) throw nb::value_error("a way that takes nothing");
    given[1] = Py_None;
    const bool is_recorded = requires_grad(given[2]) && grad_enabled();
    const size_t from = is_recorded ? 2 : 1;
    return got(PyObject_Vectorcall(get(kernel, is_recorded ? recorded : forward).ptr(), &given[from],
                                   (count - from) | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

} // namespace

nb::object call_form(nb::tuple args, nb::dict kwargs, nb::tuple taken) {
    nb::list forms, names;
    const auto add = [&](nb::handle a) {
        const bool fits =
            is_option(a) || std::any_of(taken.begin(), taken.end(), [&](nb::handle b) { return a.is(b); });
        const nb::object form = fits ? form_of(a, forms.size() == 0) : nb::object();
        if (form) forms.append(form);
        return bool(form);
    };
    for (nb::handle a : args)
        if (!add(a)) return nb::none();
    for (auto [name, a] : kwargs) {
        names.append(name);
        if (!add(a)) return nb::none();
    }
    return nb::make_tuple(nb::tuple(forms), nb::tuple(names));
}

nb::object go_straight(nb::handle function, nb::list ways, nb::tuple args, nb::dict kwargs, nb::handle watch) {
    static const Name passed_over("passed_over"), alarm("alarm"), heard("heard");
    nb::object way;
    for (Py_ssize_t i = 0; !way && i < PyList_GET_SIZE(ways.ptr()); i++) {
        if (i == 0 && followed()) break;
        const nb::object known = nb::borrow(PyList_GET_ITEM(ways.ptr(), i)); // another thread may forget it
        if (has_forms(args, kwargs, item(known, 0))) way = nb::borrow(item(known, 1));
    }
    if (!way) return nb::borrow(Py_NotImplemented);
    if (watch.is(Py_False)) return by_kernel(way, args, kwargs);
    PyFrameObject* frame = PyEval_GetFrame();
    const nb::object caller = nb::steal(frame ? (PyObject*)PyFrame_GetBack(frame) : nullptr);
    if (caller && is_true(call_method(watch, passed_over, caller))) { // a thread's first frame has no caller
        const nb::object result = by_kernel(way, args, kwargs);
        if (!is_true(get(watch, alarm)) || !is_true(call_method(watch, heard, caller))) return result;
    }
    return got(PyObject_Call(function.ptr(), args.ptr(), kwargs.ptr()));
}

} // namespace lossless
