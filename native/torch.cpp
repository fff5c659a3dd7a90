#include "torch.h"

namespace lossless {

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
    torch() = {all_of("plain_types"), all_of("watchers"),    of("function_modes"),
               of("forward_ad"),      of("is_grad_enabled"), of("empty_like")};
}

bool watched() {
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
