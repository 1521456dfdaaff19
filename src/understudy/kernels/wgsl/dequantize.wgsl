fn load_group(row: u32, group: u32) -> array<vec4<f32>, 8> {
  let packed = load_levels(row, group);
  let steps = load_steps(row, group);
  var w: array<vec4<f32>, 8>;
  for (var j = 0u; j < 4u; j++) {
    w[j] = fma(vec4<f32>(unpack4xI8(packed[0][j])), vec4<f32>(steps.x), vec4<f32>(steps.z));
    w[j + 4u] = fma(vec4<f32>(unpack4xI8(packed[1][j])), vec4<f32>(steps.y), vec4<f32>(steps.z));
  }
  return w;
}
