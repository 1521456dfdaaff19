const SIDE = 32u * (H / 2u);
const HEAD_WORDS = 2u * SIDE;

fn key_at(place: u32, word: u32, token: u32) -> vec4<f32> {
  let at = place + 2u * word * 32u + token;
  return vec4<f32>(unpack2x16float(cache[at]), unpack2x16float(cache[at + 32u]));
}

fn value_at(place: u32, word: u32, token: u32) -> vec4<f32> {
  let at = place + SIDE + token * (H / 2u) + 2u * word;
  return vec4<f32>(unpack2x16float(cache[at]), unpack2x16float(cache[at + 1u]));
}

fn scales_at(place: u32, token: u32) -> vec2<f32> { return vec2<f32>(1.0); }
