#include "functions.h"

#include "tensors.h"

#include <array>
#include <cmath>
#include <memory>
#include <unordered_map>

#include <nanobind/stl/optional.h>

namespace lossless::functions {
namespace {

using Handle = nb::handle;
using tensors::Computed, tensors::ElementForm, tensors::MaybeNumber, tensors::NONE, tensors::RowForm;
using tensors::empty_state, tensors::shared;

// Of contexts, and of the Functions that made them.
struct Names {
    Name save_for_backward{"save_for_backward"}, saved_tensors{"saved_tensors"}, needs_input_grad{"needs_input_grad"},
        forward_cls{"_forward_cls"}, by_formula{"by_formula"}, over_logits{"over_logits"}, give_up{"give_up"},
        plan{"plan"}, divisor{"divisor"}, ready{"ready"}, expected{"expected"}, functor{"functor"};
};
const Names& names() {
    static const Names all;
    return all;
}

struct Side {
    Handle batched, saving_hooks;
} side;

void set_functions(Handle given) {
    const auto of = [&](const char* name) { return get(given, Name(name)).release(); }; // kept for good
    side = {of("batched"), of("saving_hooks")};
}

// Whether somebody saves tensors in his own way (checkpoints, offloading): more than there must be defeats him.
bool is_counted() { return !call(side.saving_hooks, Handle(Py_True)).is_none(); }

// ---------------------------------------------------------------------------------------------- what comes upstream

// Whether the bits are, but of NaN, which nothing is like.
bool alike(double a, double b) { return a == b && std::signbit(a) == std::signbit(b); }

// The gradient that came upstream to the loss of a plan, in its last backward pass: most often 1, step after step. To a
// loss of many numbers too, where the same came to all of them, as from their mean. A forward pass that expects it
// writes the gradient while the rows are in cache; if another comes, that is computed, and nothing is expected until
// one has come twice. The same bits either way. What was expected once is expected again after a backward pass only: a
// loss which nobody differentiates writes no gradient, and of losses that wait for one backward pass only the first
// does.
class Upstream {
  public:
    MaybeNumber take() {
        const MaybeNumber g = expected();
        if (!g || is_counted()) return std::nullopt;
        state = State::unknown;
        return g;
    }
    void confirm(double g) { note(State::expected, g); }
    void came(double g) { note(state == State::missed && !alike(g, number) ? State::missed : State::expected, g); }
    void miss() { note(State::missed, std::nan("")); } // another came
    MaybeNumber expected() const { return state == State::expected ? MaybeNumber(number) : std::nullopt; }

  private:
    enum class State { unknown, expected, missed };
    void note(State next, double g) { state = next, number = g; }
    State state = State::unknown;
    double number = 0;
};

template <class Form> struct Known {
    explicit Known(Handle plan) : form(plan) {}
    Form form;
    Upstream upstream;
};

template <class Form> using KnownPlans = std::unordered_map<PyObject*, std::shared_ptr<Known<Form>>>;

template <class Form> KnownPlans<Form>& known_plans() {
    static auto& plans = *new KnownPlans<Form>; // for good: at exit there is no Python to give its objects back to
    return plans;
}

// Of a plan, which `form` keeps alive, so that its address stays its own.
template <class Form> std::shared_ptr<Known<Form>> known(Handle plan) {
    constexpr size_t MOST = 1024;
    KnownPlans<Form>& plans = known_plans<Form>();
    if (const auto found = plans.find(plan.ptr()); found != plans.end()) return found->second;
    auto of = std::make_shared<Known<Form>>(plan);
    KnownPlans<Form> forgotten; // emptied when nothing refers to `plans`: it may run code of others
    if (plans.size() >= MOST) plans.swap(forgotten);
    plans.emplace(plan.ptr(), of);
    return of;
}

// What the next forward pass of a RowPlan expects.
MaybeNumber expected(Handle plan) {
    const auto found = known_plans<RowForm>().find(plan.ptr());
    return found == known_plans<RowForm>().end() ? std::nullopt : found->second->upstream.expected();
}

void forget_plans() {
    KnownPlans<RowForm> rows;
    KnownPlans<ElementForm> elements;
    known_plans<RowForm>().swap(rows);
    known_plans<ElementForm>().swap(elements);
}

// ---------------------------------------------------------------------------------------------- passes

template <class... T> void save(Handle ctx, const T&... tensors) {
    call_method(ctx, names().save_for_backward, tensors...);
}

// `by_kernel`, or the formula under `create_graph`, in forward mode, whose tangents a kernel would drop, and where a
// transform batches the incoming gradient.
template <class F> nb::object backward(Handle ctx, Handle g, F by_kernel) {
    if (!grad_enabled() && !watched() && !carry_tangents()) {
        try {
            return by_kernel();
        } catch (const nb::python_error& error) { // a batch in disguise has no memory to work on
            if (!error.matches(PyExc_RuntimeError) || !is_true(call(side.batched, g))) throw;
        }
    }
    return call_method(get(ctx, names().forward_cls), names().by_formula, ctx, g);
}

// What backward returns for so many arguments of which `x` alone, the first, is differentiated.
template <Py_ssize_t ARGUMENTS> nb::object over_x(nb::object dx) {
    nb::object gradients = got(PyTuple_New(ARGUMENTS));
    PyTuple_SET_ITEM(gradients.ptr(), 0, dx.release().ptr());
    for (Py_ssize_t i = 1; i < ARGUMENTS; i++) PyTuple_SET_ITEM(gradients.ptr(), i, nb::none().release().ptr());
    return gradients;
}

// Of what depends on x - target alone.
nb::object over_difference(Handle ctx, nb::object dx) {
    const nb::object needed = get(ctx, names().needs_input_grad);
    const auto wanted = [&](Py_ssize_t i) { return PyTuple_GetItem(needed.ptr(), i) == Py_True; };
    nb::object over_target = wanted(1) ? got(PyNumber_Negative(dx.ptr())) : nb::none();
    nb::object gradients = over_x<6>(wanted(0) ? std::move(dx) : nb::none());
    PyTuple_SetItem(gradients.ptr(), 1, over_target.release().ptr());
    return gradients;
}

template <size_t N> std::array<nb::object, N> saved_tensors(Handle ctx) { // raises if they were changed, or let go
    const nb::object tuple = get(ctx, names().saved_tensors);
    if (PyTuple_Size(tuple.ptr()) != N) throw nb::value_error("saved_tensors: others than were saved");
    std::array<nb::object, N> saved;
    for (size_t i = 0; i < N; i++) saved[i] = nb::borrow(PyTuple_GET_ITEM(tuple.ptr(), i));
    return saved;
}

// ---------------------------------------------------------------------------------------------- transforms

// From which on backward is quicker if it is told of each row what the forward pass found.
constexpr int64_t MANY_CLASSES = 256;

template <bool LOG> nb::object transform_forward(Handle ctx, Handle x, Handle plan) {
    const auto of = known<RowForm>(plan);
    if (ctx.is_none()) return tensors::transform(LOG, x, of->form, NONE);
    const bool by_result = tensors::result_serves(LOG, x, of->form), many_classes = of->form.classes >= MANY_CLASSES;
    const bool alone = !(by_result || many_classes) || is_counted();
    const nb::object state = alone || by_result ? nb::none() : empty_state(x, of->form);
    nb::object out = tensors::transform(LOG, x, of->form, state);
    if (alone)
        save(ctx, x);
    else
        save(ctx, x, by_result ? out : state);
    set(ctx, names().plan, plan);
    return out;
}

template <bool LOG> nb::object transform_backward(Handle ctx, Handle g) {
    return backward(ctx, g, [&] {
        const nb::object saved = get(ctx, names().saved_tensors); // raises if they were changed, or let go
        const Handle x = item(saved, 0), found = PyTuple_Size(saved.ptr()) > 1 ? item(saved, 1) : NONE;
        const auto of = known<RowForm>(get(ctx, names().plan));
        return over_x<2>(tensors::transform_backward(LOG, x, of->form, g, found));
    });
}

nb::object elementwise_forward(Handle ctx, Handle x, Handle functor) {
    if (!ctx.is_none()) {
        save(ctx, x);
        set(ctx, names().functor, functor);
    }
    return tensors::elementwise(x, ElementForm(functor, nb::str("none")));
}

nb::object elementwise_backward(Handle ctx, Handle g) {
    return backward(ctx, g, [&] {
        const auto [x] = saved_tensors<1>(ctx);
        const ElementForm form(get(ctx, names().functor), nb::str("none"));
        return over_x<2>(tensors::pointwise_backward(x, NONE, NONE, NONE, form, 1, g, NONE));
    });
}

// ---------------------------------------------------------------------------------------------- losses

// What the backward pass of a loss needs beside the saved tensors: a gradient that may be ready, for what was expected.
void keep(Handle ctx, Handle plan, const Computed& computed, MaybeNumber expected) {
    set(ctx, names().plan, plan);
    set(ctx, names().divisor, nb::float_(computed.divisor));
    nb::object ready = nb::none();
    if (expected) { // who pops it has it
        ready = got(PyList_New(1));
        PyList_SET_ITEM(ready.ptr(), 0, nb::object(computed.dx).release().ptr());
        set(ctx, names().expected, nb::float_(*expected));
    }
    set(ctx, names().ready, ready);
}

bool holds_one(Handle list) { return !list.is_none() && PyList_Size(list.ptr()) == 1; }

// What is in a list of one, once, whatever thread: who gets it may change it. Nothing if somebody was quicker.
nb::object pop(Handle list) {
    if (!holds_one(list)) return {};
    nb::object item = nb::borrow(PyList_GET_ITEM(list.ptr(), 0));
    if (PyList_SetSlice(list.ptr(), 0, 1, nullptr)) nb::raise_python_error();
    return item;
}

// The gradient that is ready, if it is for this `g`, or else `gradient(g, the number that is all over it)`.
template <class Form, class I, class F> nb::object loss_backward(Handle ctx, Handle g, I of_inputs, F gradient) {
    const auto of = known<Form>(get(ctx, names().plan));
    if (of->form.inplace) return call_method(get(ctx, names().forward_cls), names().over_logits, ctx, g);
    return backward(ctx, g, [&] {
        const nb::object ready = get(ctx, names().ready);
        if (holds_one(ready)) get(ctx, names().saved_tensors); // raises if they were changed since, or let go
        const MaybeNumber number = shared(g);
        if (nb::object dx = pop(ready)) {
            const double expected = nb::cast<double>(get(ctx, names().expected));
            if (number && alike(*number, expected)) {
                of->upstream.confirm(expected);
                return of_inputs(std::move(dx));
            }
            of->upstream.miss();
        }
        if (number) of->upstream.came(*number);
        return of_inputs(gradient(of->form, number));
    });
}

nb::object entropy_forward(Handle ctx, Handle x, Handle plan) {
    const auto of = known<RowForm>(plan);
    if (ctx.is_none()) return tensors::entropy(x, of->form, NONE, std::nullopt).loss;
    const MaybeNumber expected = of->upstream.take();
    const nb::object state = expected ? nb::none() : empty_state(x, of->form);
    Computed computed = tensors::entropy(x, of->form, state, expected);
    save(ctx, x, state);
    keep(ctx, plan, computed, expected);
    return computed.loss;
}

nb::object entropy_backward(Handle ctx, Handle g) {
    return loss_backward<RowForm>(ctx, g, over_x<2>, [&](const RowForm& form, MaybeNumber) {
        auto [x, state] = saved_tensors<2>(ctx);
        if (state.is_none()) {
            state = empty_state(x, form);
            tensors::entropy(x, form, state, std::nullopt);
        }
        return tensors::entropy_backward(x, form, state, g);
    });
}

nb::object class_loss_forward(Handle ctx, Handle x, Handle target, Handle weight, Handle plan, MaybeNumber divisor) {
    const auto of = known<RowForm>(plan);
    if (ctx.is_none()) return tensors::class_loss(x, target, weight, of->form, divisor, NONE, std::nullopt).loss;
    const MaybeNumber expected = of->upstream.take();
    const nb::object state = expected ? nb::none() : empty_state(x, of->form);
    Computed computed = tensors::class_loss(x, target, weight, of->form, divisor, state, expected);
    save(ctx, x, target, weight, state);
    keep(ctx, plan, computed, expected);
    if (of->form.inplace) call_method(get(ctx, names().forward_cls), names().give_up, ctx, x);
    return computed.loss;
}

nb::object class_loss_backward(Handle ctx, Handle g) {
    return loss_backward<RowForm>(ctx, g, over_x<5>, [&](const RowForm& form, MaybeNumber number) {
        auto [x, target, weight, state] = saved_tensors<4>(ctx);
        const double divisor = nb::cast<double>(get(ctx, names().divisor));
        if (state.is_none()) {
            if (number) return tensors::class_loss(x, target, weight, form, divisor, NONE, number).dx;
            state = empty_state(x, form);
            tensors::class_loss(x, target, weight, form, divisor, state, std::nullopt);
        }
        return tensors::class_loss_backward(x, target, weight, state, form, divisor, g, NONE);
    });
}

nb::object nll_forward(Handle ctx, Handle x, Handle target, Handle weight, Handle plan) {
    const auto of = known<RowForm>(plan);
    Computed computed = tensors::nll(x, target, weight, of->form);
    if (!ctx.is_none()) {
        save(ctx, x, target, weight);
        set(ctx, names().plan, plan);
        set(ctx, names().divisor, nb::float_(computed.divisor));
    }
    return computed.loss;
}

nb::object nll_backward(Handle ctx, Handle g) {
    return backward(ctx, g, [&] {
        const auto [x, target, weight] = saved_tensors<3>(ctx);
        const auto of = known<RowForm>(get(ctx, names().plan));
        const double divisor = nb::cast<double>(get(ctx, names().divisor));
        return over_x<4>(tensors::nll_backward(x, target, weight, of->form, divisor, g));
    });
}

nb::object pointwise_forward(Handle ctx, Handle x, Handle target, Handle weight, Handle pos_weight, Handle plan,
                             double divisor) {
    const auto of = known<ElementForm>(plan);
    const MaybeNumber expected = ctx.is_none() ? std::nullopt : of->upstream.take();
    Computed computed = tensors::pointwise(x, target, weight, pos_weight, of->form, divisor, expected);
    if (!ctx.is_none()) {
        save(ctx, x, target, weight, pos_weight);
        keep(ctx, plan, computed, expected);
        if (of->form.inplace) call_method(get(ctx, names().forward_cls), names().give_up, ctx, x);
    }
    return computed.loss;
}

nb::object pointwise_backward(Handle ctx, Handle g) {
    const auto of_inputs = [&](nb::object dx) { return over_difference(ctx, std::move(dx)); };
    return loss_backward<ElementForm>(ctx, g, of_inputs, [&](const ElementForm& form, MaybeNumber) {
        const auto [x, target, weight, pos_weight] = saved_tensors<4>(ctx);
        const double divisor = nb::cast<double>(get(ctx, names().divisor));
        return tensors::pointwise_backward(x, target, weight, pos_weight, form, divisor, g, NONE);
    });
}

} // namespace

void define(nb::module_& parent) {
    using nb::arg;
    nb::module_ m = parent.def_submodule("functions");
    m.def("set_functions", set_functions, arg("side"));
    m.def("forget_plans", forget_plans);
    m.def("expected", expected, arg("plan"));
    // Arguments without names are quicker to take, but None is refused as one.
    const auto ctx = [] { return arg("ctx").none(); };
    m.def("softmax_forward", transform_forward<false>, ctx(), arg("x"), arg("plan"));
    m.def("softmax_backward", transform_backward<false>, nb::is_method());
    m.def("log_softmax_forward", transform_forward<true>, ctx(), arg("x"), arg("plan"));
    m.def("log_softmax_backward", transform_backward<true>, nb::is_method());
    m.def("elementwise_forward", elementwise_forward, ctx(), arg("x"), arg("functor"));
    m.def("elementwise_backward", elementwise_backward, nb::is_method());
    m.def("entropy_forward", entropy_forward, ctx(), arg("x"), arg("plan"));
    m.def("entropy_backward", entropy_backward, nb::is_method());
    m.def("class_loss_forward", class_loss_forward, ctx(), arg("x"), arg("target"), arg("weight").none(), arg("plan"),
          arg("divisor").none());
    m.def("class_loss_backward", class_loss_backward, nb::is_method());
    m.def("nll_forward", nll_forward, ctx(), arg("x"), arg("target"), arg("weight").none(), arg("plan"));
    m.def("nll_backward", nll_backward, nb::is_method());
    m.def("pointwise_forward", pointwise_forward, ctx(), arg("x"), arg("target"), arg("weight").none(),
          arg("pos_weight").none(), arg("plan"), arg("divisor"));
    m.def("pointwise_backward", pointwise_backward, nb::is_method());
}

} // namespace lossless::functions
