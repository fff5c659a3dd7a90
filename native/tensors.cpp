#include "tensors.h"

#include "recycler.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <cmath>

namespace lossless::tensors {
namespace {

struct Side {
    Recycler* recycler = nullptr;
    nb::handle empty_state, in_memory, scalar, shared, sound;
} side;

// Of plans, functors and tensors.
struct Names {
    Name rows{"rows"}, shape{"shape"}, ignore_index{"ignore_index"}, kernel_link{"kernel_link"},
        temperature{"temperature"}, reduction{"reduction"}, inplace{"inplace"}, index_error{"index_error"},
        loss{"loss"}, kernel{"kernel"}, kernel_parameters{"kernel_parameters"}, new_empty{"new_empty"}, ndim{"ndim"};
};
const Names& names() {
    static const Names all;
    return all;
}

template <class T> T number(nb::handle object, const Name& attribute) { return nb::cast<T>(get(object, attribute)); }

Reduction reduction_of(nb::handle name) {
    const std::string text = nb::cast<std::string>(name);
    return text == "none" ? Reduction::none : text == "mean" ? Reduction::mean : Reduction::sum;
}

// `value` rounded to the dtype of x; infinite where it is too large.
nb::object rounded(double value, nb::handle x) {
    const Element element = Array(x, "x").element;
    if (element != Element::f32 && element != Element::f64) return call(side.scalar, nb::float_(value), x);
    nb::object out = fresh_tensor(element, 0, nullptr);
    if (!out) return call(side.scalar, nb::float_(value), x);
    const Array memory(out, "out");
    if (element == Element::f32)
        *memory.as<float>() = float(value);
    else
        *memory.as<double>() = value;
    return out;
}

// The loss of a sum, or of each where these were written.
nb::object loss_of(double total, double divisor, nb::handle each, nb::handle x) {
    if (!(std::isfinite(total + divisor) && divisor != 0)) call(side.sound, nb::float_(total), nb::float_(divisor));
    return each.is_none() ? rounded(total / divisor, x) : nb::borrow(each);
}

// Recycled memory, if it is large.
nb::object empty_like(nb::handle x) {
    if (!side.recycler) throw std::runtime_error("the core was not told of PyTorch");
    return side.recycler->empty_like(x);
}

double or_nan(double divisor) { return divisor == 0 ? std::nan("") : divisor; }

nb::object empty_rows(nb::handle x, const RowForm& form) { return call_method(x, names().new_empty, form.shape); }

void raise_bad(int64_t bad, nb::handle target, const RowForm& form) {
    if (bad < 0) return;
    const nb::object error = call_method(form.plan, names().index_error, target);
    PyErr_SetObject((PyObject*)Py_TYPE(error.ptr()), error.ptr());
    nb::raise_python_error();
}

} // namespace

void set_kernels(nb::handle given) {
    const auto of = [&](const char* name) { return get(given, Name(name)).release(); }; // kept for good
    side = {nb::cast<Recycler*>(of("recycler")),
            of("empty_state"),
            of("in_memory"),
            of("scalar"),
            of("shared"),
            of("sound")};
}

RowForm::RowForm(nb::handle of) : plan(nb::borrow(of)) {
    rows = get(of, names().rows);
    shape = get(of, names().shape);
    std::tie(outer, classes, inner) = nb::cast<std::tuple<int64_t, int64_t, int64_t>>(rows);
    ignore_index = number<std::optional<int64_t>>(of, names().ignore_index);
    const nb::object given = get(of, names().kernel_link); // statistics have none
    link = given.is_none() ? Link{1, 0, 0, 0} : nb::cast<Link>(given);
    temperature = number<double>(of, names().temperature);
    reduction = reduction_of(get(of, names().reduction));
    inplace = is_true(get(of, names().inplace));
}

ElementForm::ElementForm(nb::handle functor, nb::handle reduction_) {
    kernel = number<std::string>(functor, names().kernel);
    parameters = number<std::tuple<double, double>>(functor, names().kernel_parameters);
    reduction = reduction_of(reduction_);
    inplace = false;
}

ElementForm::ElementForm(nb::handle of) : ElementForm(get(of, names().loss), get(of, names().reduction)) {
    plan = nb::borrow(of);
    inplace = is_true(get(of, names().inplace));
}

nb::object empty_state(nb::handle x, const RowForm& form) { return call(side.empty_state, x, form.rows); }

nb::object in_memory(nb::handle tensor) {
    if (Array::is_contiguous_tensor(tensor) && !is_negated(tensor)) return nb::borrow(tensor);
    return call(side.in_memory, tensor);
}

MaybeNumber shared(nb::handle g) {
    if (PyLong_AsLong(get(g, names().ndim).ptr()) == 0 && !is_negated(g)) {
        const Array array(g, "g");
        if (array.element == Element::f32) return *array.as<float>();
        if (array.element == Element::f64) return *array.as<double>();
    }
    return nb::cast<MaybeNumber>(call(side.shared, g));
}

// ---------------------------------------------------------------------------------------------- transforms

bool result_serves(bool log, nb::handle x, const RowForm& form) {
    constexpr int64_t FEW_CLASSES = 28; // from the logits, one tensor less is kept, at a tenth to a sixth more time
    if (log || form.classes <= FEW_CLASSES || form.temperature != 1) return false;
    const Element element = Array(x, "x").element;
    return element == Element::f32 || element == Element::f64;
}

nb::object transform(bool log, nb::handle x, const RowForm& form, nb::handle state) {
    nb::object out = empty_like(x);
    (log ? lossless::log_softmax : lossless::softmax)(x, form.outer, form.classes, form.inner, out, form.temperature,
                                                      state);
    return out;
}

nb::object transform_backward(bool log, nb::handle x, const RowForm& form, nb::handle g, nb::handle found) {
    const bool by_result = result_serves(log, x, form);
    const nb::handle state = by_result ? NONE : found, result = by_result ? found : NONE;
    const nb::object upstream = in_memory(g);
    nb::object dx = empty_like(x);
    if (log)
        lossless::log_softmax_backward(x, form.outer, form.classes, form.inner, upstream, dx, form.temperature, state);
    else
        lossless::softmax_backward(x, form.outer, form.classes, form.inner, upstream, dx, form.temperature, state,
                                   result);
    return dx;
}

// ---------------------------------------------------------------------------------------------- rows

Computed entropy(nb::handle x, const RowForm& form, nb::handle state, MaybeNumber g) {
    Computed out = {empty_rows(x, form), 1, g ? empty_like(x) : nb::none()};
    lossless::entropy(x, form.outer, form.classes, form.inner, out.loss, state, g.value_or(1), out.dx,
                      form.temperature);
    return out;
}

nb::object entropy_backward(nb::handle x, const RowForm& form, nb::handle state, nb::handle g) {
    const nb::object upstream = in_memory(g);
    nb::object dx = empty_like(x);
    lossless::row_statistics_backward(x, form.outer, form.classes, form.inner, NONE, NONE, NONE, std::nullopt, state,
                                      NONE, NONE, upstream, NONE, dx, form.temperature);
    return dx;
}

Computed class_loss(nb::handle x, nb::handle target, nb::handle weight, const RowForm& form, MaybeNumber divisor,
                    nb::handle state, MaybeNumber g) {
    const nb::object each = form.reduction == Reduction::none ? empty_rows(x, form) : nb::none();
    nb::object dx = g ? empty_like(x) : nb::none();
    const auto [bad, total, by] = lossless::row_loss(
        x, form.outer, form.classes, form.inner, target, weight, form.ignore_index, form.link, each, state,
        form.reduction == Reduction::mean ? divisor : 1.0, g.value_or(1), dx, form.temperature);
    raise_bad(bad, target, form);
    return {loss_of(total, or_nan(by), each, x), or_nan(by), std::move(dx)};
}

nb::object class_loss_backward(nb::handle x, nb::handle target, nb::handle weight, nb::handle state,
                               const RowForm& form, double divisor, nb::handle g, nb::handle dx) {
    const nb::object upstream = in_memory(g);
    nb::object out = dx.is_none() ? empty_like(x) : nb::borrow(dx);
    lossless::row_loss_backward(x, form.outer, form.classes, form.inner, target, weight, form.ignore_index, form.link,
                                state, upstream, divisor, out, form.temperature);
    return out;
}

Computed nll(nb::handle x, nb::handle target, nb::handle weight, const RowForm& form) {
    const nb::object each = form.reduction == Reduction::none ? empty_rows(x, form) : nb::none();
    const auto [bad, total, weights] =
        lossless::nll(x, form.outer, form.classes, form.inner, target, weight, form.ignore_index, each);
    raise_bad(bad, target, form);
    const double divisor = form.reduction == Reduction::mean ? or_nan(weights) : 1;
    return {loss_of(total, divisor, each, x), divisor, nb::none()};
}

nb::object nll_backward(nb::handle x, nb::handle target, nb::handle weight, const RowForm& form, double divisor,
                        nb::handle g) {
    const nb::object upstream = in_memory(g);
    nb::object dx = empty_like(x);
    lossless::nll_backward(dx, form.outer, form.classes, form.inner, target, weight, form.ignore_index, upstream,
                           divisor);
    return dx;
}

// ---------------------------------------------------------------------------------------------- single numbers

Computed pointwise(nb::handle x, nb::handle target, nb::handle weight, nb::handle pos_weight, const ElementForm& form,
                   double divisor, MaybeNumber g) {
    const nb::object each = form.reduction == Reduction::none ? empty_like(x) : nb::none();
    nb::object dx = g ? empty_like(x) : nb::none();
    divisor = form.reduction == Reduction::mean ? or_nan(divisor) : 1;
    const double total = lossless::pointwise(form.kernel, x, target, weight, pos_weight, form.parameters, each,
                                             g.value_or(1), divisor, dx);
    return {loss_of(total, divisor, each, x), divisor, std::move(dx)};
}

nb::object elementwise(nb::handle x, const ElementForm& form) {
    nb::object out = empty_like(x);
    lossless::pointwise(form.kernel, x, NONE, NONE, NONE, form.parameters, out, 1, 1, NONE);
    return out;
}

nb::object pointwise_backward(nb::handle x, nb::handle target, nb::handle weight, nb::handle pos_weight,
                              const ElementForm& form, double divisor, nb::handle g, nb::handle dx) {
    const nb::object upstream = in_memory(g);
    nb::object out = dx.is_none() ? empty_like(x) : nb::borrow(dx);
    lossless::pointwise_backward(form.kernel, x, target, weight, pos_weight, form.parameters, upstream, divisor, out);
    return out;
}

// ---------------------------------------------------------------------------------------------- from Python

void define(nb::module_& parent) {
    const auto loss_and_divisor = [](const Computed& c) { return nb::make_tuple(c.loss, c.divisor); };
    using H = nb::handle;
    using nb::arg;
    nb::module_ m = parent.def_submodule("tensors");
    m.def("set_kernels", set_kernels, arg("side"));
    if (const H known = nb::type<Recycler>()) // this module is imported once more
        m.attr("Recycler") = known;
    else
        nb::class_<Recycler>(m, "Recycler")
            .def(nb::init<int64_t, H>(), arg("limit"), arg("side"))
            .def("empty_like", &Recycler::empty_like, arg("x"))
            .def("forget", &Recycler::forget)
            .def_prop_ro("remembered", &Recycler::remembered);
    m.def(
        "transform",
        [](const std::string& name, H x, H plan) { return transform(name == "log_softmax", x, RowForm(plan), NONE); },
        arg("name"), arg("x"), arg("plan"));
    m.def(
        "transform_backward",
        [](const std::string& name, H x, H plan, H g, H result) {
            const bool log = name == "log_softmax";
            const RowForm form(plan);
            return transform_backward(log, x, form, g, result_serves(log, x, form) ? result : NONE);
        },
        arg("name"), arg("x"), arg("plan"), arg("g"), arg("result").none());
    m.def(
        "class_loss",
        [=](H x, H target, H weight, H plan, H state) {
            return loss_and_divisor(class_loss(x, target, weight, RowForm(plan), std::nullopt, state, std::nullopt));
        },
        arg("x"), arg("target"), arg("weight").none(), arg("plan"), arg("state").none());
    m.def(
        "class_loss_backward",
        [](H x, H target, H weight, H state, H plan, double divisor, H g, H dx) {
            return class_loss_backward(x, target, weight, state, RowForm(plan), divisor, g, dx);
        },
        arg("x"), arg("target"), arg("weight").none(), arg("state"), arg("plan"), arg("divisor"), arg("g"),
        arg("dx").none());
    m.def(
        "nll", [=](H x, H target, H weight, H plan) { return loss_and_divisor(nll(x, target, weight, RowForm(plan))); },
        arg("x"), arg("target"), arg("weight").none(), arg("plan"));
    m.def(
        "nll_backward",
        [](H x, H target, H weight, H plan, double divisor, H g) {
            return nll_backward(x, target, weight, RowForm(plan), divisor, g);
        },
        arg("x"), arg("target"), arg("weight").none(), arg("plan"), arg("divisor"), arg("g"));
    m.def(
        "pointwise",
        [](H functor, H x, H target, H weight, H pos_weight, H reduction, double divisor) {
            return pointwise(x, target, weight, pos_weight, ElementForm(functor, reduction), divisor, std::nullopt)
                .loss;
        },
        arg("functor"), arg("x"), arg("target"), arg("weight").none(), arg("pos_weight").none(), arg("reduction"),
        arg("divisor"));
    m.def(
        "elementwise", [](H functor, H x) { return elementwise(x, ElementForm(functor, nb::str("none"))); },
        arg("functor"), arg("x"));
    m.def(
        "pointwise_backward",
        [](H functor, H x, H target, H weight, H pos_weight, double divisor, H g, H dx) {
            return pointwise_backward(x, target, weight, pos_weight, ElementForm(functor, nb::str("none")), divisor, g,
                                      dx);
        },
        arg("functor"), arg("x"), arg("target").none(), arg("weight").none(), arg("pos_weight").none(), arg("divisor"),
        arg("g"), arg("dx").none());
}

} // namespace lossless::tensors
