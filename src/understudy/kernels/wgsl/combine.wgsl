// Puts a token's pieces of attention together, a workgroup a token and query head.
const WORDS = H / 4u;

fn piece_at(item: u32, head: u32) -> u32 { return PIECES_AT + (item * N + head) * (WORDS + 1u); }

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let token = place.x;
  let head = place.y;
  let first = pass_[FIRST_ITEMS_AT + token];
  let count = pass_[POSITIONS_AT + token] / 256u + 1u;
  var highest = work[piece_at(first, head)].x;
  for (var i = 1u; i < count; i++) { highest = max(highest, work[piece_at(first + i, head)].x); }
  var total = 0.0;
  for (var i = 0u; i < count; i++) {
    let piece = work[piece_at(first + i, head)];
    total = fma(exp(piece.x - highest), piece.y, total);
  }
  if (lane >= WORDS) { return; }
  var sum = vec4<f32>(0.0);
  for (var i = 0u; i < count; i++) {
    let at = piece_at(first + i, head);
    sum = fma(vec4<f32>(exp(work[at].x - highest)), work[at + 1u + lane], sum);
  }
  work[OUT_AT + token * OUT_STRIDE + head * WORDS + lane] = sum / total;
}
