// Lanes of one subgroup are added in registers, the subgroups of a team through memory: any subgroup size from 4 up.
var<private> subgroup_width: u32;

fn share(lane: u32, output: u32, value: f32) {
  let width = min(subgroup_width, 32u);
  var sum = value;
  for (var apart = width >> 1u; apart > 0u; apart = apart >> 1u) { sum += subgroupShuffleXor(sum, apart); }
  if ((lane & (width - 1u)) == 0u) { shares[lane / width * OUTPUTS + output] = sum; }
}

fn total_of(output: u32) -> f32 {
  var sum = shares[output];
  for (var i = 1u; i < 32u / min(subgroup_width, 32u); i++) { sum += shares[i * OUTPUTS + output]; }
  return sum;
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) place: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
  @builtin(subgroup_size) width: u32,
) {
  subgroup_width = width;
  run(place, count.x, li);
}
