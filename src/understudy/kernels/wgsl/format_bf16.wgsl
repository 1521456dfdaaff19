// 32 values of a row: 4 vectors of pairs; a value is the upper half of a float.

fn wide(a: u32, b: u32) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
}

fn load_group(row: u32, group: u32) -> array<vec4<f32>, 8> {
  let at = shape.levels_at + (row * shape.groups + group) * 4u;
  var w: array<vec4<f32>, 8>;
  for (var j = 0u; j < 4u; j++) {
    let v = stored[at + j];
    w[2u * j] = wide(v.x, v.y);
    w[2u * j + 1u] = wide(v.z, v.w);
  }
  return w;
}
