const SIDE = 32u * (H / 4u);
const HEAD_WORDS = 2u * SIDE + 32u;

var<workgroup> peaks: array<vec2<f32>, 64>;

fn largest(v: vec4<f32>) -> f32 {
  let size = abs(v);
  return max(max(size.x, size.y), max(size.z, size.w));
}

// Bits of a scale that a half word holds, rounded up, so that no level is beyond 127.
fn scale_bits(peak: f32) -> u32 { return (bitcast<u32>(peak / 127.0) + 0xffffu) & 0xffff0000u; }

fn levels_of(v: vec4<f32>, bits: u32) -> u32 {
  let scale = bitcast<f32>(bits);
  var inverse = 0.0;
  if (scale > 0.0) { inverse = 1.0 / scale; }
  return pack4xI8(vec4<i32>(clamp(round(v * inverse), vec4<f32>(-127.0), vec4<f32>(127.0))));
}

fn write(key: vec4<f32>, value: vec4<f32>, place: u32, token: u32, lane: u32) {
  peaks[lane] = vec2<f32>(largest(key), largest(value));
  workgroupBarrier();
  var peak = vec2<f32>(0.0);
  for (var i = 0u; i < H / 4u; i++) { peak = max(peak, peaks[i]); }
  let key_bits = scale_bits(peak.x);
  let value_bits = scale_bits(peak.y);
  if (lane < H / 4u) {
    cache[place + lane * 32u + token] = levels_of(key, key_bits);
    cache[place + SIDE + token * (H / 4u) + lane] = levels_of(value, value_bits);
  }
  if (lane == 0u) { cache[place + 2u * SIDE + token] = (key_bits >> 16u) | value_bits; }
}
