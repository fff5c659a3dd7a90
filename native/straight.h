// Calls like one before (`_straight.py`).
#pragma once

#include "torch.h"

namespace lossless {

// The forms of all arguments, in their order, and the names of the last; None if one has none, or if it is a tensor and
// not one of those that a kernel takes.
nb::object call_form(nb::tuple args, nb::dict kwargs, nb::tuple taken);

// What a call comes to that has a known form: the result of its kernel; or of `function`, where the call is looked at.
// NotImplemented for all others, and where something follows the operations. `ways`: of (form, way), a way being
// (a Function, the places of its arrays among the arguments, what follows these). `watch`: the module, or False for a
// function whose calls nobody looks at.
nb::object go_straight(nb::handle function, nb::list ways, nb::tuple args, nb::dict kwargs, nb::handle watch);

} // namespace lossless
