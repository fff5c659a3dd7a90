#include "torch.h"

#if __has_include(<dlfcn.h>)
#include <dlfcn.h>
#endif

namespace lossless {
namespace {

void* symbol([[maybe_unused]] uintptr_t library, [[maybe_unused]] const char* name) {
#if __has_include(<dlfcn.h>)
    return dlsym(reinterpret_cast<void*>(library), name);
#else
    return nullptr;
#endif
}

// PyTorch's C interface (torch/csrc/inductor/aoti_torch/c/shim.h), and the one function of C++ that makes a Python
// object of its tensors.
struct Libraries {
    bool (*grad_enabled)() = nullptr;
    int (*empty)(int64_t ndim, const int64_t* shape, const int64_t* strides, int32_t dtype, int32_t device_type,
                 int32_t device, void** tensor) = nullptr;
    int (*reinterpret)(void* tensor, int64_t ndim, const int64_t* shape, const int64_t* strides, int64_t offset,
                       void** out) = nullptr;
    int (*release)(void* tensor) = nullptr;
    PyObject* (*wrap)(const void* tensor) = nullptr;
    int32_t dtypes[4] = {}; // of f16, bf16, f32, f64
} libraries;

uintptr_t with_keys = 0; // the library that has them, where they are used

// Two words of each thread, which are 0 as long as its keys are the usual ones: what is included, and what is not.
const uint64_t* keys_of_thread() {
#if defined(__linux__) // elsewhere `dlsym` does not tell one thread from another
    return static_cast<const uint64_t*>(symbol(with_keys, "_ZN3c104impl26raw_local_dispatch_key_setE"));
#else
    return nullptr;
#endif
}

} // namespace

Torch& torch() {
    static Torch side;
    return side;
}

void set_torch(nb::handle side) {
    const auto of = [&](const char* name) { return get(side, Name(name)).release(); }; // kept for good
    const auto all_of = [&](const char* name) {
        std::vector<nb::handle> all;
        for (nb::handle each : get(side, Name(name))) all.push_back(each.inc_ref());
        return all;
    };
    torch() = {all_of("plain_types"), all_of("watchers"), of("function_modes"), of("forward_ad"),
               of("is_grad_enabled")};
}

void use_torch_libraries(uintptr_t cpu, uintptr_t python) {
    bool all = true;
    const auto find = [&](uintptr_t library, const char* name) {
        void* const found = symbol(library, name);
        all &= found != nullptr;
        return found;
    };
    Libraries given;
    given.grad_enabled = reinterpret_cast<decltype(given.grad_enabled)>(find(cpu, "aoti_torch_grad_mode_is_enabled"));
    given.empty = reinterpret_cast<decltype(given.empty)>(find(cpu, "aoti_torch_empty_strided"));
    given.reinterpret = reinterpret_cast<decltype(given.reinterpret)>(find(cpu, "aoti_torch__reinterpret_tensor"));
    given.release = reinterpret_cast<decltype(given.release)>(find(cpu, "aoti_torch_delete_tensor_object"));
    given.wrap = reinterpret_cast<decltype(given.wrap)>(find(python, "_Z16THPVariable_WrapRKN2at10TensorBaseE"));
    const char* const dtypes[] = {"aoti_torch_dtype_float16", "aoti_torch_dtype_bfloat16", "aoti_torch_dtype_float32",
                                  "aoti_torch_dtype_float64"};
    for (int i = 0; i < 4; i++)
        if (const auto dtype = reinterpret_cast<int32_t (*)()>(find(cpu, dtypes[i]))) given.dtypes[i] = dtype();
    if (all) libraries = given;
}

void use_dispatch_keys(uintptr_t c10) {
    with_keys = c10;
    if (c10 && !keys_of_thread()) with_keys = 0;
}

bool has_usual_keys() {
    if (!with_keys) return false;
    static thread_local const uint64_t* const keys = keys_of_thread();
    return keys && !(keys[0] | keys[1]);
}

namespace {

constexpr int MOST_DIMENSIONS = 8;

// make(strides, out), of a contiguous tensor.
template <class F> Handle contiguous(int ndim, const int64_t* shape, F make) {
    int64_t strides[MOST_DIMENSIONS];
    for (int64_t i = ndim - 1, step = 1; i >= 0; i--) {
        strides[i] = step;
        if (shape[i]) step *= shape[i];
    }
    void* tensor = nullptr;
    return {make(strides, &tensor) ? nullptr : tensor, libraries.release};
}

} // namespace

Handle fresh_handle(Element element, int ndim, const int64_t* shape) {
    constexpr int CPU = 0;
    if (!libraries.empty || ndim > MOST_DIMENSIONS || element > Element::f64) return {nullptr, nullptr};
    return contiguous(ndim, shape, [&](const int64_t* strides, void** out) {
        return libraries.empty(ndim, shape, strides, libraries.dtypes[int(element)], CPU, 0, out);
    });
}

Handle in_memory_of(const Handle& other, int ndim, const int64_t* shape) {
    if (!other || ndim > MOST_DIMENSIONS) return {nullptr, nullptr};
    return contiguous(ndim, shape, [&](const int64_t* strides, void** out) {
        return libraries.reinterpret(other.get(), ndim, shape, strides, 0, out);
    });
}

nb::object wrapped(const Handle& tensor) { return got(libraries.wrap(tensor.get())); }

bool grad_enabled() {
    return libraries.grad_enabled ? libraries.grad_enabled() : call(torch().is_grad_enabled).is(Py_True);
}

bool watched() {
    if (has_usual_keys()) return false;
    const auto& watchers = torch().watchers;
    return std::any_of(watchers.begin(), watchers.end(), [](nb::handle watcher) { return is_true(call(watcher)); });
}

bool carry_tangents() {
    static const Name level("_current_level");
    const nb::handle forward_ad = torch().forward_ad;
    return forward_ad && PyLong_AsLong(get(forward_ad, level).ptr()) >= 0;
}

bool followed() {
    const Torch& side = torch();
    return watched() || (side.function_modes && is_true(call(side.function_modes))) || carry_tangents();
}

bool is_negated(nb::handle tensor) {
    static const Name is_neg("is_neg");
    return call_method(tensor, is_neg).is(Py_True);
}

bool requires_grad(nb::handle tensor) {
    static const Name name("requires_grad");
    return get(tensor, name).is(Py_True);
}

bool ordinary(nb::args tensors) {
    if (followed()) return false;
    for (size_t i = 0; i < tensors.size(); i++)
        if (!tensors[i].is_none() && !is_ordinary(tensors[i], i == 0, [](const Array&) { return true; })) return false;
    return true;
}

} // namespace lossless
