"""What the accuracy promise is measured with: an oracle, named inputs, the promises, and the peers.

`oracle`, `ulp` and `regimes` share nothing with the rest of the library (`make check` enforces it). The tests use this
package, and `lossless accuracy` draws a table from it. It needs the extra `accuracy`.
"""
