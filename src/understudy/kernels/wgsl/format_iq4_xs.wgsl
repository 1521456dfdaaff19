// 32 values of a row: a vector of nibbles, the low ones first, each the number of one of 16 levels; 8 groups share 2
// words: f16 d, 2 high bits of each group's scale, and 4 low ones: value = d * (scale - 32) * level.
fn looked_up(numbers: vec4<u32>) -> vec4<u32> {
  var found = vec4<u32>(0u);
  for (var b = 0u; b < 32u; b += 8u) {
    let n = (numbers >> vec4<u32>(b)) & vec4<u32>(15u);
    let below = select(vec4<u32>(0xbfad9881u), vec4<u32>(0xf6eaddcfu), n >= vec4<u32>(4u));  // -127 to -65, -49 to -10
    let above = select(vec4<u32>(0x26190d01u), vec4<u32>(0x71594535u), n >= vec4<u32>(12u));  // 1 to 38, 53 to 113
    let four = select(below, above, n >= vec4<u32>(8u));
    found |= ((four >> ((n & vec4<u32>(3u)) * 8u)) & vec4<u32>(0xffu)) << vec4<u32>(b);
  }
  return found;
}

fn load_levels(row: u32, group: u32) -> array<vec4<u32>, 2> {
  let v = stored[shape.levels_at + row * shape.groups + group];
  return array<vec4<u32>, 2>(looked_up(v), looked_up(v >> vec4<u32>(4u)));
}

fn load_steps(row: u32, group: u32) -> vec3<f32> {
  let head = shape.scales_at * 4u + ((row * shape.groups + group) >> 3u) * 2u;
  let first = stored_words[head];
  let place = group & 7u;
  let low = (stored_words[head + 1u] >> (place * 4u)) & 15u;
  let high = (first >> (16u + place * 2u)) & 3u;
  let step = unpack2x16float(first).x * (f32(low | (high << 4u)) - 32.0);
  return vec3<f32>(step, step, 0.0);
}
