// 32 values of a row: a vector of nibbles, the low ones first, and an f16 step; level = nibble - 8.

fn minus_8(v: vec4<u32>) -> vec4<u32> {
  return ((v | vec4<u32>(0x80808080u)) - vec4<u32>(0x08080808u)) ^ vec4<u32>(0x80808080u);
}

fn load_levels(row: u32, group: u32) -> array<vec4<u32>, 2> {
  let v = stored[shape.levels_at + row * shape.groups + group];
  return array<vec4<u32>, 2>(
    minus_8(v & vec4<u32>(0x0f0f0f0fu)), minus_8((v >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu)));
}

fn load_steps(row: u32, group: u32) -> vec3<f32> {
  let at = row * shape.groups + group;
  let step = unpack2x16float(stored_words[shape.scales_at * 4u + (at >> 1u)])[at & 1u];
  return vec3<f32>(step, step, 0.0);
}
