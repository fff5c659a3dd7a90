// A contiguous array that arrived from Python: a NumPy array by the buffer protocol, or a torch CPU tensor by DLPack's
// C exchange interface (0.2 us a tensor; no Python call, and tensors that require a gradient pass).
#pragma once

#include "kernels.h"

#include <nanobind/nanobind.h>

#include <cstring>
#include <string>

namespace lossless {

namespace nb = nanobind;

enum class Element : int { f16, bf16, f32, f64, i64, byte };

class Array {
  public:
    // Outputs must be writable. Of a tensor of which the shape alone counts, the numbers may be gone.
    enum class Use { input, output, shape };
    // `what` names the argument in errors.
    Array(nb::handle object, const char* what, Use use = Use::input) : name(what) {
        if (object.is_none()) return;
        if (const ExchangeApi* api = exchange_api(Py_TYPE(object.ptr())))
            from_tensor(*api, object);
        else
            from_buffer(object, use == Use::output);
        if (!data && size > 0 && use != Use::shape)
            throw nb::type_error((name + ": holds no data (a fake or meta tensor?)").c_str());
    }
    Array(const Array&) = delete;

    // Whether it is a tensor whose numbers lie in memory one after the other.
    static bool is_contiguous_tensor(nb::handle object) {
        const ExchangeApi* api = exchange_api(Py_TYPE(object.ptr()));
        Tensor t;
        if (!api) return false;
        if (!api->borrow(object.ptr(), &t)) return t.is_contiguous();
        PyErr_Clear();
        return false;
    }

    explicit operator bool() const { return given; }

    Array& expect(Element wanted, int64_t count) {
        if (!given) return *this;
        if (element != wanted) throw nb::type_error((name + ": wrong dtype for this call").c_str());
        if (size != count) throw nb::value_error((name + ": wrong number of elements for this call").c_str());
        return *this;
    }
    Array& required() {
        if (!given) throw nb::type_error((name + ": must not be None").c_str());
        return *this;
    }
    template <class T> T* as() const { return static_cast<T*>(data); }
    int64_t bytes() const {
        constexpr int64_t each[] = {2, 2, 4, 8, 8, 1};
        return size * each[int(element)];
    }

    std::string name;
    bool given = false;
    void* data = nullptr;
    Element element = Element::byte;
    int64_t size = 0;
    int ndim = 0;                   // of a tensor
    const int64_t* shape = nullptr; // of a tensor, as long as that lives

  private:
    // The part of DLPack 1.3 that is used here.
    struct Tensor {
        void* data;
        int32_t device_type, device_id, ndim;
        uint8_t code, bits;
        uint16_t lanes;
        int64_t *shape, *strides;
        uint64_t byte_offset;
        int64_t size() const {
            int64_t size = 1;
            for (int i = 0; i < ndim; i++) size *= shape[i];
            return size;
        }
        bool is_contiguous() const {
            int64_t step = 1;
            for (int i = ndim - 1; i >= 0 && strides; i--) {
                if (shape[i] != 1 && strides[i] != step) return size() == 0;
                step *= shape[i];
            }
            return true;
        }
    };
    struct ExchangeApi {
        uint32_t major, minor;
        void* previous;
        void *allocate, *from_object, *to_object;
        int (*borrow)(void* object, Tensor* out);
    };

    static const ExchangeApi* exchange_api(PyTypeObject* type) {
        static PyTypeObject* last_type = nullptr;
        static const ExchangeApi* last_api = nullptr;
        if (type == last_type) return last_api;
        nb::object capsule = nb::getattr(nb::handle((PyObject*)type), "__dlpack_c_exchange_api__", nb::none());
        const ExchangeApi* api = nullptr;
        if (!capsule.is_none()) {
            api = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
            if (!api) nb::raise_python_error();
            if (api->major != 1 || !api->borrow) api = nullptr;
        }
        if (api) {
            Py_INCREF(type); // so that no other type can take its address
            last_type = type;
            last_api = api;
        }
        return api;
    }

    void from_tensor(const ExchangeApi& api, nb::handle object) {
        Tensor t;
        if (api.borrow(object.ptr(), &t)) nb::raise_python_error();
        if (t.device_type != 1) throw nb::type_error((name + ": must be in CPU memory").c_str());
        given = true;
        data = t.data ? static_cast<char*>(t.data) + t.byte_offset : nullptr;
        ndim = t.ndim;
        shape = t.shape;
        size = t.size();
        if (!t.is_contiguous()) throw nb::value_error((name + ": must be contiguous").c_str());
        constexpr int INT = 0, UINT = 1, FLOAT = 2, BFLOAT = 4, BOOL = 6;
        const int kind = t.lanes == 1 ? t.code << 8 | t.bits : -1;
        switch (kind) {
        case FLOAT << 8 | 16: element = Element::f16; break;
        case BFLOAT << 8 | 16: element = Element::bf16; break;
        case FLOAT << 8 | 32: element = Element::f32; break;
        case FLOAT << 8 | 64: element = Element::f64; break;
        case INT << 8 | 64: element = Element::i64; break;
        case UINT << 8 | 8:
        case BOOL << 8 | 8: element = Element::byte; break;
        default: throw nb::type_error((name + ": unsupported dtype").c_str());
        }
    }

    void from_buffer(nb::handle object, bool output) {
        if (PyObject_GetBuffer(object.ptr(), &buffer,
                               PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (output ? PyBUF_WRITABLE : 0)))
            nb::raise_python_error();
        given = true;
        data = buffer.buf;
        size = buffer.itemsize ? buffer.len / buffer.itemsize : 0;
        const char* format = buffer.format ? buffer.format : "B";
        if (*format && std::strchr("@=<", *format)) format++;
        switch (*format) {
        case 'e': element = Element::f16; break;
        case 'H': element = Element::bf16; break; // the bits of ml_dtypes.bfloat16
        case 'f': element = Element::f32; break;
        case 'd': element = Element::f64; break;
        case 'l':
        case 'q': element = Element::i64; break;
        case '?':
        case 'B': element = Element::byte; break;
        default: throw nb::type_error((name + ": unsupported dtype").c_str());
        }
        if (element == Element::i64 && buffer.itemsize != 8)
            throw nb::type_error((name + ": unsupported dtype").c_str());
    }

    // Released also when a constructor refuses the array.
    struct Buffer : Py_buffer {
        Buffer() : Py_buffer{} {}
        ~Buffer() {
            if (obj) PyBuffer_Release(this);
        }
    } buffer;
};

} // namespace lossless
