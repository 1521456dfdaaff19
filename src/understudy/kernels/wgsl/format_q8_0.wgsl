// 32 values of a row: two vectors of int8 levels and an f16 step.

fn load_levels(row: u32, group: u32) -> array<vec4<u32>, 2> {
  let at = shape.levels_at + (row * shape.groups + group) * 2u;
  return array<vec4<u32>, 2>(stored[at], stored[at + 1u]);
}

fn load_steps(row: u32, group: u32) -> vec3<f32> {
  let at = row * shape.groups + group;
  let step = unpack2x16float(stored_words[shape.scales_at * 4u + (at >> 1u)])[at & 1u];
  return vec3<f32>(step, step, 0.0);
}
