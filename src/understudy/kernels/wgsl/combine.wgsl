// Puts a token's pieces of attention together, a workgroup a token and query head.
@group(0) @binding(0) var<storage, read> pieces: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read> pass_: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let token = place.x;
  let head = place.y;
  let first = pass_[FIRST_ITEMS_AT + token];
  let count = pass_[POSITIONS_AT + token] / 256u + 1u;
  var highest = pieces[(first * N + head) * (H + 2u)];
  for (var i = 1u; i < count; i++) { highest = max(highest, pieces[((first + i) * N + head) * (H + 2u)]); }
  var total = 0.0;
  for (var i = 0u; i < count; i++) {
    let at = ((first + i) * N + head) * (H + 2u);
    total = fma(exp(pieces[at] - highest), pieces[at + 1u], total);
  }
  for (var d = lane; d < H; d += 64u) {
    var sum = 0.0;
    for (var i = 0u; i < count; i++) {
      let at = ((first + i) * N + head) * (H + 2u);
      sum = fma(exp(pieces[at] - highest), pieces[at + 2u + d], sum);
    }
    out[token * OUT_STRIDE + head * H + d] = sum / total;
  }
}
