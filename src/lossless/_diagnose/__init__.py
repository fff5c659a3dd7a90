"""What goes wrong around losses, and how it is noticed: one table of troubles, one set of rules.

`troubles` is the table, `rules` look at a `Case` (some rows of a call, as NumPy arrays), and `watch` decides when: now
and then for a warning, on the whole batch for `lossless.diagnose`.
"""
