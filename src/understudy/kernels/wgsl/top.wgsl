// The COUNT highest logits of a row and their ids, a workgroup a row; of equals the lower id comes first.
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> best: array<vec2<u32>>;

var<workgroup> values: array<f32, 256>;
var<workgroup> ids: array<u32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = place.x;
  var last = 3.4e38;
  var last_id = 0u;
  for (var n = 0u; n < COUNT; n++) {
    var value = -3.4e38;
    var id = 0xffffffffu;
    for (var i = li; i < V; i += 256u) {
      let v = logits[row * V + i];
      let comes_later = n == 0u || v < last || (v == last && i > last_id);
      if (comes_later && (v > value || id == 0xffffffffu)) { value = v; id = i; }
    }
    values[li] = value;
    ids[li] = id;
    for (var half = 128u; half > 0u; half = half >> 1u) {
      workgroupBarrier();
      if (li < half) {
        let other = values[li + half];
        let other_id = ids[li + half];
        if (other_id != 0xffffffffu && (ids[li] == 0xffffffffu || other > values[li]
            || (other == values[li] && other_id < ids[li]))) {
          values[li] = other;
          ids[li] = other_id;
        }
      }
    }
    workgroupBarrier();
    last = values[0];
    last_id = ids[0];
    if (li == 0u) { best[row * COUNT + n] = vec2<u32>(last_id, bitcast<u32>(last)); }
    workgroupBarrier();
  }
}
