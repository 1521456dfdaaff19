// Split-K attention. One workgroup a KV head and piece: a token's view of 256 positions, which end at its own. All
// queries of the KV head share one reading of the keys and values. What comes out is not yet divided: for each query
// head a vector of the piece's highest score and its sum of weights, then the weighted sum of the values.
const GROUP = N / K;
const WORDS = H / 4u;
const PARTS = 64u / WORDS;

var<workgroup> queries: array<vec4<f32>, GROUP * WORDS>;
var<workgroup> weights: array<f32, GROUP * 256u>;
var<workgroup> reduced: array<f32, GROUP * 64u>;
var<workgroup> mixed: array<vec4<f32>, GROUP * 64u>;

fn place_of(token: u32, head: u32, position: u32) -> u32 {
  return (pass_[pass_[TABLES_AT + token] + position / 32u] * K + head) * HEAD_WORDS;
}

fn score(token: u32, head: u32, lane: u32, start: u32, count: u32) {
  for (var h = 0u; h < GROUP; h++) { reduced[h * 64u + lane] = -3e38; }
  for (var i = lane; i < count; i += 64u) {
    let place = place_of(token, head, start + i);
    let slot = (start + i) % 32u;
    var sums = array<vec4<f32>, GROUP>();  // spelled out: naga does not clear it on each round by itself
    for (var w = 0u; w < WORDS; w++) {
      let key = key_at(place, w, slot);
      for (var h = 0u; h < GROUP; h++) { sums[h] = fma(queries[h * WORDS + w], key, sums[h]); }
    }
    let scale = scales_at(place, slot).x;
    for (var h = 0u; h < GROUP; h++) {
      let result = ((sums[h].x + sums[h].y) + (sums[h].z + sums[h].w)) * scale;
      weights[h * 256u + i] = result;
      reduced[h * 64u + lane] = max(reduced[h * 64u + lane], result);
    }
  }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let item = place.x;
  let head = place.y;
  let token = pass_[ITEMS_AT + 2u * item];
  let start = pass_[ITEMS_AT + 2u * item + 1u] * 256u;
  let count = min(256u, pass_[POSITIONS_AT + token] + 1u - start);
  for (var i = lane; i < GROUP * WORDS; i += 64u) {
    queries[i] = work[QKV_AT + token * QKV_STRIDE + head * GROUP * WORDS + i];
  }
  workgroupBarrier();
  score(token, head, lane, start, count);
  workgroupBarrier();
  var highest: array<f32, GROUP>;
  for (var h = 0u; h < GROUP; h++) {
    var top = reduced[h * 64u];
    for (var i = 1u; i < 64u; i++) { top = max(top, reduced[h * 64u + i]); }
    highest[h] = top;
  }
  workgroupBarrier();
  for (var h = 0u; h < GROUP; h++) { reduced[h * 64u + lane] = 0.0; }
  for (var i = lane; i < count; i += 64u) {
    let scale = scales_at(place_of(token, head, start + i), (start + i) % 32u).y;
    for (var h = 0u; h < GROUP; h++) {
      let weight = exp(weights[h * 256u + i] - highest[h]);
      reduced[h * 64u + lane] += weight;
      weights[h * 256u + i] = weight * scale;
    }
  }
  workgroupBarrier();
  let word = lane % WORDS;
  let part = lane / WORDS;
  var sums = array<vec4<f32>, GROUP>();
  if (part < PARTS) {
    for (var i = part; i < count; i += PARTS) {
      let value = value_at(place_of(token, head, start + i), word, (start + i) % 32u);
      for (var h = 0u; h < GROUP; h++) { sums[h] = fma(value, vec4<f32>(weights[h * 256u + i]), sums[h]); }
    }
  }
  for (var h = 0u; h < GROUP; h++) { mixed[h * 64u + lane] = sums[h]; }
  workgroupBarrier();
  for (var h = 0u; h < GROUP; h++) {
    let at = PIECES_AT + (item * N + head * GROUP + h) * (WORDS + 1u);
    if (lane < WORDS) {
      var sum = mixed[h * 64u + lane];
      for (var p = 1u; p < PARTS; p++) { sum += mixed[h * 64u + p * WORDS + lane]; }
      work[at + 1u + lane] = sum;
    }
    if (lane == 0u) {
      var total = reduced[h * 64u];
      for (var i = 1u; i < 64u; i++) { total += reduced[h * 64u + i]; }
      work[at] = vec4<f32>(highest[h], total, 0.0, 0.0);
    }
  }
}
