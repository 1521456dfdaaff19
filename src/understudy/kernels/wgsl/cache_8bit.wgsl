const SIDE = 32u * (H / 4u);
const HEAD_WORDS = 2u * SIDE + 32u;

fn key_at(place: u32, word: u32, token: u32) -> vec4<f32> {
  return vec4<f32>(unpack4xI8(cache[place + word * 32u + token]));
}

fn value_at(place: u32, word: u32, token: u32) -> vec4<f32> {
  return vec4<f32>(unpack4xI8(cache[place + SIDE + token * (H / 4u) + word]));
}

fn scales_at(place: u32, token: u32) -> vec2<f32> {
  let pair = cache[place + 2u * SIDE + token];
  return bitcast<vec2<f32>>(vec2<u32>(pair << 16u, pair & 0xffff0000u));
}
