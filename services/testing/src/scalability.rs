//! Gunther's universal scalability law, `X(N) = λN / (1 + σ(N−1) + κN(N−1))`, fitted to throughputs. σ is the part of the work that waits
//! for others (contention), κ what each pair of processes costs (coherence). With σ = κ = 0 throughput is proportional to N.

/// The coefficients of a fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scalability {
    pub sigma: f64,
    pub kappa: f64,
}

/// Fits the law to `(N, throughput)` by least squares, λ being the throughput of one process. With `C = X(N) / X(1)` the law is linear:
/// `N/C − 1 = σ(N−1) + κN(N−1)`. A coefficient that would be negative is zero, and the other one is fitted alone. `None` without a throughput
/// for N = 1 and one for a greater N, or if one is not positive.
pub fn fit(points: &[(u32, f64)]) -> Option<Scalability> {
    let one = points.iter().find(|(n, _)| *n == 1)?.1;
    if points.iter().any(|(n, throughput)| *n == 0 || *throughput <= 0.0) {
        return None;
    }
    // Sums of the normal equations of y = σa + κb.
    let (mut aa, mut ab, mut bb, mut ay, mut by) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (n, throughput) in points.iter().filter(|(n, _)| *n > 1) {
        let n = f64::from(*n);
        let (a, b, y) = (n - 1.0, n * (n - 1.0), n * one / throughput - 1.0);
        (aa, ab, bb, ay, by) = (aa + a * a, ab + a * b, bb + b * b, ay + a * y, by + b * y);
    }
    if aa == 0.0 {
        return None;
    }
    let determinant = aa * bb - ab * ab;
    let (sigma, kappa) = if determinant > f64::EPSILON * aa * bb {
        ((ay * bb - by * ab) / determinant, (by * aa - ay * ab) / determinant)
    } else {
        // One N alone cannot tell the two apart.
        (ay / aa, 0.0)
    };
    let fitted = if kappa < 0.0 {
        Scalability { sigma: (ay / aa).max(0.0), kappa: 0.0 }
    } else if sigma < 0.0 {
        Scalability { sigma: 0.0, kappa: (by / bb).max(0.0) }
    } else {
        Scalability { sigma, kappa }
    };
    Some(fitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_law(sigma: f64, kappa: f64) -> Vec<(u32, f64)> {
        let throughput = |n: u32| {
            let m = f64::from(n);
            (n, 70.0 * m / (1.0 + sigma * (m - 1.0) + kappa * m * (m - 1.0)))
        };
        [1, 2, 4, 8, 16].into_iter().map(throughput).collect()
    }

    #[test]
    fn the_coefficients_of_a_throughput_that_follows_the_law_are_found() {
        for (sigma, kappa) in [(0.0, 0.0), (0.03, 0.001), (0.2, 0.0), (0.0, 0.01), (1.0, 0.0)] {
            let found = fit(&by_law(sigma, kappa)).unwrap();
            assert!((found.sigma - sigma).abs() < 1e-9 && (found.kappa - kappa).abs() < 1e-9, "{found:?}");
        }
    }

    #[test]
    fn no_coefficient_is_negative() {
        let more_than_linear = [(1, 10.0), (2, 21.0), (4, 44.0)];
        assert_eq!(fit(&more_than_linear), Some(Scalability { sigma: 0.0, kappa: 0.0 }));
        let concave = by_law(0.1, 0.0).into_iter().map(|(n, x)| (n, if n == 16 { x * 1.05 } else { x }));
        let found = fit(&concave.collect::<Vec<_>>()).unwrap();
        assert!(found.kappa == 0.0 && found.sigma > 0.05, "{found:?}");
    }

    #[test]
    fn too_little_to_fit_has_no_coefficients() {
        assert_eq!(fit(&[]), None);
        assert_eq!(fit(&[(1, 10.0)]), None);
        assert_eq!(fit(&[(2, 10.0), (4, 20.0)]), None, "nothing to compare with");
        assert_eq!(fit(&[(1, 10.0), (2, 0.0)]), None);
        assert_eq!(fit(&[(1, 10.0), (2, 16.0)]), Some(Scalability { sigma: 0.25, kappa: 0.0 }), "one N alone");
    }
}
