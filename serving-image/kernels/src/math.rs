//! Elementary functions on registers, and the loop under every product.

use pulp::Simd;

/// `out[m][v] += Σₖ weights[k][m] · inputs[k][v]`: the accumulators stay in registers over the
/// whole sum.
#[inline(always)]
pub(crate) fn multiply_add<'a, S: Simd, const M: usize, const V: usize>(
    simd: S,
    weights: impl IntoIterator<Item = &'a [f32; M]>,
    inputs: &[[S::f32s; V]],
    mut sums: [[S::f32s; V]; M],
) -> [[S::f32s; V]; M] {
    for (weights, inputs) in weights.into_iter().zip(inputs) {
        for (sums, weight) in sums.iter_mut().zip(weights) {
            let weight = simd.splat_f32s(*weight);
            for (sum, input) in sums.iter_mut().zip(inputs) {
                *sum = simd.mul_add_e_f32s(weight, *input, *sum);
            }
        }
    }
    sums
}

/// A row of lanes as registers, `V` at a time. The length is a multiple of `V` registers.
#[inline(always)]
pub(crate) fn registers<S: Simd, const V: usize>(values: &[f32]) -> &[[S::f32s; V]] {
    S::as_simd_f32s(values).0.as_chunks().0
}

/// [`registers`], to write.
#[inline(always)]
pub(crate) fn registers_mut<S: Simd, const V: usize>(values: &mut [f32]) -> &mut [[S::f32s; V]] {
    S::as_mut_simd_f32s(values).0.as_chunks_mut().0
}

/// The polynomial with these coefficients, the highest power first.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::f32s, coefficients: [f32; N]) -> S::f32s {
    let mut sum = simd.splat_f32s(0.0);
    for coefficient in coefficients {
        sum = simd.mul_add_e_f32s(sum, x, simd.splat_f32s(coefficient));
    }
    sum
}

/// eˣ for x ≤ 0, as softmax needs it: within 2·10⁻⁷ relative down to −87, and about 10⁻³⁸ below.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // x = n ln 2 + r with |r| ≤ ln 2 / 2; ln 2 in two parts, the first exact in a product with n.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 · 2²³ rounds to an integer and leaves it in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let x = simd.max_f32s(x, simd.splat_f32s(-87.0));
    let shifted = simd.mul_add_e_f32s(
        x,
        simd.splat_f32s(std::f32::consts::LOG2_E),
        simd.splat_f32s(ROUND),
    );
    let n = simd.sub_f32s(shifted, simd.splat_f32s(ROUND));
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN2_HIGH), x);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN2_LOW), r);
    // Taylor's series to r⁷: its rest is below 10⁻⁸ here.
    let power = polynomial(
        simd,
        r,
        [
            1.0 / 5040.0,
            1.0 / 720.0,
            1.0 / 120.0,
            1.0 / 24.0,
            1.0 / 6.0,
            0.5,
            1.0,
            1.0,
        ],
    );
    // 2ⁿ by its bits; what ROUND itself has in them is shifted out at the top.
    let bits = simd.add_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(127));
    let scale = simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23));
    simd.mul_f32s(power, simd.transmute_f32s_u32s(scale))
}

/// The error function, within 4·10⁻⁷ absolute: the rational approximation that Eigen and XLA use.
#[inline(always)]
pub(crate) fn erf<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const NUMERATOR: [f32; 7] = [
        -2.726_142e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const DENOMINATOR: [f32; 5] = [
        -1.456_607_2e-5,
        -2.133_740_6e-4,
        -1.682_827e-3,
        -7.373_329e-3,
        -1.426_473_9e-2,
    ];
    let x = simd.max_f32s(x, simd.splat_f32s(-4.0));
    let x = simd.min_f32s(x, simd.splat_f32s(4.0));
    let square = simd.mul_f32s(x, x);
    let numerator = simd.mul_f32s(x, polynomial(simd, square, NUMERATOR));
    simd.div_f32s(numerator, polynomial(simd, square, DENOMINATOR))
}

/// GELU by the error function: `x/2 · (1 + erf(x/√2))`.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let erf = erf(
        simd,
        simd.mul_f32s(x, simd.splat_f32s(std::f32::consts::FRAC_1_SQRT_2)),
    );
    let half = simd.mul_f32s(x, simd.splat_f32s(0.5));
    simd.mul_add_e_f32s(half, erf, half)
}

/// [`exp`] as formulas outside of attention need it: 0 below −87, and no number where `x` is none.
#[inline(always)]
pub(crate) fn exp_or_zero<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let is_number = simd.equal_f32s(x, x);
    let small = simd.select_f32s(is_number, simd.splat_f32s(0.0), x);
    let is_in_range = simd.greater_than_or_equal_f32s(x, simd.splat_f32s(-87.0));
    simd.select_f32s(is_in_range, exp(simd, x), small)
}

/// −|x|
#[inline(always)]
fn minus_abs<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    simd.min_f32s(x, simd.sub_f32s(simd.splat_f32s(0.0), x))
}

/// `1 / (1 + exp(−x))`, within 3·10⁻⁷ relative down to −87, and 0 below.
#[inline(always)]
pub(crate) fn logistic<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    let power = exp_or_zero(simd, minus_abs(simd, x));
    let of_positive = simd.div_f32s(one, simd.add_f32s(one, power));
    let of_negative = simd.mul_f32s(power, of_positive);
    let is_positive = simd.greater_than_or_equal_f32s(x, simd.splat_f32s(0.0));
    simd.select_f32s(is_positive, of_positive, of_negative)
}

/// The hyperbolic tangent, within 3·10⁻⁷ relative.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Near zero the difference of powers has no digits left; the polynomial is that of the Cephes
    // library.
    const NEAR: f32 = 0.625;
    const COEFFICIENTS: [f32; 5] = [
        -5.704_988_7e-3,
        2.063_908_8e-2,
        -5.373_971_6e-2,
        1.333_144_2e-1,
        -3.333_328e-1,
    ];
    let (zero, one) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
    let minus = minus_abs(simd, x);
    let square = simd.mul_f32s(x, x);
    let rest = simd.mul_f32s(square, polynomial(simd, square, COEFFICIENTS));
    let near = simd.mul_add_e_f32s(rest, x, x);
    let power = exp_or_zero(simd, simd.add_f32s(minus, minus));
    let far = simd.div_f32s(simd.sub_f32s(one, power), simd.add_f32s(one, power));
    let is_positive = simd.greater_than_or_equal_f32s(x, zero);
    let far = simd.select_f32s(is_positive, far, simd.sub_f32s(zero, far));
    let is_near = simd.greater_than_f32s(minus, simd.splat_f32s(-NEAR));
    simd.select_f32s(is_near, near, far)
}
