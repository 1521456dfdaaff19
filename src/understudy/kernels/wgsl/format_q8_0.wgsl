// 32 values of a row: two vectors of int8 levels and an f16 step.
@group(0) @binding(0) var<storage, read> levels: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> scales: array<u32>;

fn load_levels(row: u32, group: u32) -> array<vec4<u32>, 2> {
  let at = (row * shape.groups + group) * 2u;
  return array<vec4<u32>, 2>(levels[at], levels[at + 1u]);
}

fn load_steps(row: u32, group: u32) -> vec3<f32> {
  let at = row * shape.groups + group;
  let step = unpack2x16float(scales[at >> 1u])[at & 1u];
  return vec3<f32>(step, step, 0.0);
}
