// What the core asks of PyTorch: of its Python functions, which `set_torch` binds once it is loaded, or, in less time,
// of its libraries, by names of what they export. No header of PyTorch is needed, so one build serves every version of
// it.
#pragma once

#include "array.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <vector>

namespace lossless {

// ---------------------------------------------------------------------------------------------- Python objects

// Of an attribute, a method or a keyword.
struct Name {
    nb::handle text;
    explicit Name(const char* name) : text(PyUnicode_InternFromString(name)) {}
};

// A new reference, or the Python error that came instead of it.
inline nb::object got(PyObject* object) {
    if (!object) nb::raise_python_error();
    return nb::steal(object);
}

inline nb::object get(nb::handle object, const Name& attribute) {
    return got(PyObject_GetAttr(object.ptr(), attribute.text.ptr()));
}

inline void set(nb::handle object, const Name& attribute, nb::handle value) {
    if (PyObject_SetAttr(object.ptr(), attribute.text.ptr(), value.ptr())) nb::raise_python_error();
}

template <class... A> nb::object call(nb::handle function, const A&... arguments) {
    if (!function) throw std::runtime_error("the core was not told of PyTorch");
    PyObject* given[] = {nullptr, arguments.ptr()...};
    return got(PyObject_Vectorcall(function.ptr(), given + 1, sizeof...(A) | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

template <class... A> nb::object call_method(nb::handle object, const Name& method, const A&... arguments) {
    PyObject* given[] = {nullptr, object.ptr(), arguments.ptr()...};
    return got(PyObject_VectorcallMethod(method.text.ptr(), given + 1,
                                         (sizeof...(A) + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

// An item of a tuple, which this checks to be one.
inline nb::handle item(nb::handle tuple, Py_ssize_t i) {
    PyObject* object = PyTuple_GetItem(tuple.ptr(), i);
    if (!object) nb::raise_python_error();
    return object;
}

inline bool is_true(nb::handle object) {
    const int truth = PyObject_IsTrue(object.ptr());
    if (truth < 0) nb::raise_python_error();
    return truth;
}

// ---------------------------------------------------------------------------------------------- PyTorch

// The attributes of what `set_torch` is given, in `_torch/modes.py`.
struct Torch {
    std::vector<nb::handle> plain_types; // of tensors that are no subclasses
    std::vector<nb::handle> watchers;    // functions: does something follow PyTorch's operations?
    nb::handle function_modes;           // a function: how many of them are there, which see calls of functions alone
    nb::handle forward_ad;               // a module, which knows the level of forward mode
    nb::handle is_grad_enabled;
};

Torch& torch(); // nothing in it before `set_torch`
void set_torch(nb::handle side);

// Where the libraries export what is needed, by handles of them; where not, Python's functions are asked.
void use_torch_libraries(uintptr_t cpu, uintptr_t python);
void use_dispatch_keys(uintptr_t c10); // 0: not any more
// Whether the dispatch keys of this thread are the usual ones; no, where they are not used.
bool has_usual_keys();

// A tensor by a handle of the libraries; none where they do not make it.
using Handle = std::unique_ptr<void, int (*)(void*)>;
// A contiguous one with any numbers in it.
Handle fresh_handle(Element element, int ndim, const int64_t* shape);
// A contiguous one of its own in the memory of another, which has the same type of numbers.
Handle in_memory_of(const Handle& other, int ndim, const int64_t* shape);
// As a Python object.
nb::object wrapped(const Handle& tensor);
inline nb::object fresh_tensor(Element element, int ndim, const int64_t* shape) {
    const Handle tensor = fresh_handle(element, ndim, shape);
    return tensor ? wrapped(tensor) : nb::object();
}

// Whether a transform, a tracer, or a dispatch mode follows the operations.
bool watched();
// Whether tensors may carry tangents, of forward mode.
bool carry_tangents();
// Whether something follows, or sees the calls of functions, or tensors may carry tangents.
bool followed();

bool grad_enabled();

// Whether a negation is still to come.
bool is_negated(nb::handle tensor);
bool requires_grad(nb::handle tensor);

// Whether `t` is an ordinary tensor of which `see` says yes: of one of the plain types and not of a subclass, dense and
// contiguous in this memory, without a negation that is still to come, and with no gradient to be found unless it is
// the first of its call.
template <class F> bool is_ordinary(nb::handle t, bool first, F see) {
    const auto& types = torch().plain_types;
    const nb::handle type((PyObject*)Py_TYPE(t.ptr()));
    if (std::none_of(types.begin(), types.end(), [&](nb::handle plain) { return plain.is(type); })) return false;
    try {
        const Array array(t, "tensor");
        return see(array) && !is_negated(t) && (first || !requires_grad(t));
    } catch (const std::exception&) {
        return false;
    }
}

// Whether the kernels may read these tensors (or None) as they lie, now.
bool ordinary(nb::args tensors);

} // namespace lossless
