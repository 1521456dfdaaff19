// y[t, r] = sum over c of w[r, c] * prepared(x)[t, c], in float.
//
// 32 lanes share a row: lane l takes the groups l, l + 32, ... of 32 values. A workgroup has 2 such teams of ROWS rows
// each, which share TOKENS activations, staged in pieces of 1024 values. The order of a token's sums is the same however
// many tokens there are.
var<workgroup> staged: array<vec4<f32>, 256u * TOKENS>;

fn stage(li: u32, chunk: u32, first: u32) {
  let count = min(256u, shape.x_vectors - chunk * 256u);
  for (var t = 0u; t < TOKENS; t++) {
    let row = source_row(first + t);
    for (var v = li; v < count; v += 64u) {
      staged[t * 256u + (v & 7u) * 32u + (v >> 3u)] = prepared(t, row, chunk * 256u + v);
    }
  }
}

fn multiply(row: u32, group: u32, lane: u32) -> array<f32, TOKENS> {
  let w = load_group(row, group);
  var sums = array<f32, TOKENS>();
  for (var t = 0u; t < TOKENS; t++) {
    var sum = vec4<f32>(0.0);
    for (var j = 0u; j < 8u; j++) { sum = fma(w[j], staged[t * 256u + j * 32u + lane], sum); }
    sums[t] = (sum.x + sum.y) + (sum.z + sum.w);
  }
  return sums;
}
