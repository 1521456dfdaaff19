// 32 values of a row: a vector of nibbles, the low ones first; 8 groups share 4 words of f16 d and dmin and of
// 6-bit scales and minima: value = d * scale * level - dmin * minimum.

fn load_levels(row: u32, group: u32) -> array<vec4<u32>, 2> {
  let v = stored[shape.levels_at + row * shape.groups + group];
  return array<vec4<u32>, 2>(v & vec4<u32>(0x0f0f0f0fu), (v >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu));
}

fn load_steps(row: u32, group: u32) -> vec3<f32> {
  let head = stored[shape.scales_at + ((row * shape.groups + group) >> 3u)];
  let d = unpack2x16float(head.x);
  let shift = (group & 3u) * 8u;
  let low = (head.y >> shift) & 0xffu;
  let mid = (head.z >> shift) & 0xffu;
  let high = (head.w >> shift) & 0xffu;
  var scale = low & 0x3fu;
  var minimum = mid & 0x3fu;
  if ((group & 4u) != 0u) {
    scale = (high & 0x0fu) | ((low >> 2u) & 0x30u);
    minimum = (high >> 4u) | ((mid >> 2u) & 0x30u);
  }
  let step = d.x * f32(scale);
  return vec3<f32>(step, step, -(d.y * f32(minimum)));
}
