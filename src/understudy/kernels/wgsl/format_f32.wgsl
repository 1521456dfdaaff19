// 32 values of a row: 8 vectors of bit patterns; rows are padded with zeros to whole groups.

fn load_group(row: u32, group: u32) -> array<vec4<f32>, 8> {
  let at = shape.levels_at + (row * shape.groups + group) * 8u;
  var w: array<vec4<f32>, 8>;
  for (var j = 0u; j < 8u; j++) { w[j] = bitcast<vec4<f32>>(stored[at + j]); }
  return w;
}
