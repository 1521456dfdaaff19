// 32 values of a row: a vector of low nibbles, those of the first half first; 8 groups share 21 words: 16 of high bits
// (2 words a group: byte b of word w holds those of the values 16 w + b, + 4, + 8, + 12), 4 of int8 scales for 16
// values each, one of f16 d. level = q - 32.

fn minus_32(v: vec4<u32>) -> vec4<u32> {
  return ((v | vec4<u32>(0x80808080u)) - vec4<u32>(0x20202020u)) ^ vec4<u32>(0x80808080u);
}

fn load_levels(row: u32, group: u32) -> array<vec4<u32>, 2> {
  let at = row * shape.groups + group;
  let v = stored[shape.levels_at + at];
  let head = shape.scales_at * 4u + (at >> 3u) * 21u + (group & 7u) * 2u;
  let shifts = vec4<u32>(0u, 2u, 4u, 6u);
  let two = vec4<u32>(0x03030303u);
  let first = ((vec4<u32>(stored_words[head]) >> shifts) & two) << vec4<u32>(4u);
  let second = ((vec4<u32>(stored_words[head + 1u]) >> shifts) & two) << vec4<u32>(4u);
  let nibbles = vec4<u32>(0x0f0f0f0fu);
  return array<vec4<u32>, 2>(minus_32((v & nibbles) | first), minus_32(((v >> vec4<u32>(4u)) & nibbles) | second));
}

fn load_steps(row: u32, group: u32) -> vec3<f32> {
  let head = shape.scales_at * 4u + ((row * shape.groups + group) >> 3u) * 21u;
  let d = unpack2x16float(stored_words[head + 20u]).x;
  let four = unpack4xI8(stored_words[head + 16u + ((group & 7u) >> 1u)]);
  let two = select(four.xy, four.zw, (group & 1u) == 1u);
  return vec3<f32>(d * f32(two.x), d * f32(two.y), 0.0);
}
