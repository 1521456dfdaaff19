// y[t, r] = sum over c of w[r, c] * prepared(x)[t, c], in float.
//
// 32 lanes share a row: lane l takes the groups l, l + 32, ... of 32 values. A workgroup has 8 such teams, which share
// TOKENS activations, staged in pieces of 1024 values. The order of a token's sums is the same however many there are.
var<workgroup> staged: array<vec4<f32>, 256u * TOKENS>;

fn stage(li: u32, chunk: u32, first: u32) {
  for (var i = li; i < 256u * TOKENS; i += 256u) {
    let t = i >> 8u;
    let v = i & 255u;
    let at = chunk * 256u + v;
    var value = vec4<f32>(0.0);
    if (at < shape.x_vectors) { value = prepared(t, source_row(first + t), at); }
    staged[t * 256u + (v & 7u) * 32u + (v >> 3u)] = value;
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
