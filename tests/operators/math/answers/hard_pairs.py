"""Gold answers, models' answers (inside a box) and the expected verdicts: `=` correct, `!` wrong, `?` unparsed.

No two notations may be confused: an answer that cannot be read with certainty is `?`, never a verdict.
"""

from __future__ import annotations

from operators.records import Verdict

_VERDICTS: dict[str, Verdict] = {"=": "correct", "!": "wrong", "?": "unparsed"}

_TABLE = r"""
# angles
\tan 45^\circ | = | 1
\cos 60^\circ | = | 0.5
\frac{\sqrt{3}}{2} | = | \sin 60°
\sin 150^\circ | = | \sin(30^\circ)
\cos 60^\circ | ? | \cos 60
\cos 60^\circ | ! | \cos 30^\circ
2\sin 15^\circ | ? | 2\sin 15
\frac12 | ? | \sin 30
\sin\frac{\pi}{6} | = | \frac12
\sin\frac{\pi}{6} | ! | \frac{\sqrt{3}}{2}
30.25^\circ | ? | 30^\circ 15'
45º | = | 45
45^\circ | = | 45\text{ deg}
\tan 90^\circ | ? | 7
20^\circ C | = | 20°C
20^\circ C | ? | 20°F
2\pi \text{ rad} | = | 2\pi
180^\circ | ? | \pi
# primes
A' | ! | A
A' | = | A^\prime
y'' | ! | y'
y'' | ! | y
f'(x) | ? | f(x)
f'(x) = 2x | = | f'(x)=2x
f'(x) = 2x | ? | f(x) = 2x
5' | ? | 5''
A′ | ! | A
# about
5 | = | x \approx 5
2.5 hours | = | t ≈ 2.5 \text{ hours}
12.57 | ? | 4\pi \approx 12.57
4\pi | = | 4\pi \approx 12.57
3 | ! | 4\pi \approx 12.57
3.14 | ? | \approx 3.14
# vectors, matrices, points
\begin{pmatrix}1\\2\end{pmatrix} | ? | (1,2)
\begin{pmatrix}1\\2\end{pmatrix} | = | \begin{bmatrix}1\\2\end{bmatrix}
\begin{pmatrix}1\\2\end{pmatrix} | ? | \begin{pmatrix}1&2\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} | = | \begin{pmatrix}1&2\\3&\frac{8}{2}\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} | ! | \begin{pmatrix}1&3\\2&4\end{pmatrix}
\begin{vmatrix}1&2\\3&4\end{vmatrix} | ? | -2
\langle 1, 2\rangle | = | ⟨1, 2⟩
\langle 1, 2\rangle | ? | (1, 2)
\langle 1, 2\rangle | ! | \langle 2, 1\rangle
\vec{v} | ? | v
\mathbf{7} | = | 7
\mathbf{v} | ? | v
\overline{AB} | ? | AB
(0, 0) | ! | 0, 1
(1, 2, 3) | ! | (1, 3, 2)
# sets and intervals
\emptyset | = | ∅
\emptyset | = | \varnothing
\emptyset | = | \{\}
\emptyset | = | \{ \}
\emptyset | ! | \{\emptyset\}
\emptyset | ! | \{0\}
\emptyset | ! | 0
\emptyset | ? | \text{no solution}
(-\infty,\infty) | = | \mathbb{R}
(-\infty,\infty) | = | ℝ
\mathbb{R} | = | \text{all real numbers}
\mathbb{R} | ? | \mathbb{Q}
\mathbb{R} \setminus \{0\} | = | (-\infty,0)\cup(0,\infty)
\mathbb{R} \setminus \{0\} | = | x \ne 0
\mathbb{R} \setminus \{0\} | ! | \mathbb{R} \setminus \{1\}
[0,\infty) | = | \{x : x\ge 0\}
[0,\infty) | = | \{x \mid x \geq 0\}
[0,\infty) | ! | \{x : x > 0\}
(3,\infty) | = | x>3
(3,\infty) | = | 3<x
(3,\infty) | ! | x\ge 3
(3,\infty) | ! | x<3
[1,2] | = | 1 \le x \le 2
[1,2) | = | 2 > x ≥ 1
[1,2) | ! | 1 < x \le 2
(1,2) | ? | 1 < x < 2
(1,2) | ! | 1 < x < 3
(-\infty,-3)\cup(3,\infty) | = | x<-3 \text{ or } x>3
(-\infty,-3)\cup(3,\infty) | = | (3,\infty)\cup(-\infty,-3)
(-\infty,-3)\cup(3,\infty) | ? | x<-3 \text{ and } x>3
(3,\infty) | ! | (3,4)
[1,3] \cap [2,4] | ? | [2,3]
\{1,2\} | = | \{1\} \cup \{2\}
\{1,2,2\} | ? | \{1,2\}
\{1, 2, 3\} | = | 3, 1, 2
\{1, 2, 3\} | ! | \{1, 2, 4\}
\{(1,2),(3,4)\} | = | (3,4), (1,2)
\{(1,2),(3,4)\} | ! | (2,1), (4,3)
# letters with something behind them
C | ? | (C) 5
C | = | \textbf{(C)}
C | ? | C) 5
C | ? | C. 5
C | ! | (D)
5 | ? | B
b | ? | B
# digits in groups, decimal commas, scales
3.14 | ? | 3,14
3,14 | = | 3,14
3.14 | ! | 3,15
100000 | ? | 1,00,000
1234.5 | ? | 1.234,5
1234567 | ? | 1.234.567
1234567 | = | 1,234,567
1234567 | ? | 1'234'567
1000 | ? | 1 000
1234 | ! | 1,235
3.141 | ? | 3,141
12000 | ? | 12K
12000 | ? | 12k
12 | ? | 12k
1200000 | ? | 1.2M
5000 | ? | 5 K
5000000 | ? | 5 million
12 | ? | 1 dozen
1, 2 | = | 1,2
1,2 | ! | 1,3
# units
12 cm^2 | = | 12 cm2
12 cm^2 | = | 12\,\text{cm}^2
12 cm^2 | = | 12 \text{ square centimeters}
12 cm^2 | = | 12 sq cm
12 cm^2 | ? | 12 cm
12 cm^2 | ? | 12 cm3
12 cm^2 | ! | 13 cm^2
12\mathrm{~cm}^{2} | = | 12
60 km/h | = | 60 km per hour
60 km/h | = | 60 kph
60 km/h | ? | 60 mph
60 km/h | ! | 50 km/h
\$0.50 | ? | 50 cents
\$5 | = | 5 dollars
\$5 | ! | \$6
5 | ? | 5 ft 3 in
90 | ? | 1.5 hours
90 | ? | 1 h 30 min
90 | ! | 17 hours
3 | = | 3 m
3 | ? | 3m
3 m | ? | 300
0.45 | ? | 45 in 100
5 | ? | 5 less than x
30\% | = | 30 percent
0.3 | = | 30\%
30\% | ! | 3\%
3\frac{1}{2} \text{ cups} | = | 3.5 cups
10 \text{ N} | ? | 10 \text{ J}
# scientific notation
300000 | = | 3e5
300000 | = | 3\times10^5
300000 | = | 3 \cdot 10^{5}
300000 | = | 3 x 10^5
6.02\times 10^{23} | ? | 6.02 x 10^23
6.02\times 10^{23} | ! | 6.02\times 10^{22}
0.00012 | = | 1.2 \times 10^{-4}
1024 | ? | 2^10
1024 | = | 2^{10}
1024 | = | 2**10
# fractions
0.5 | = | \tfrac12
0.5 | = | \cfrac{1}{2}
0.5 | = | \frac{1}2
0.5 | = | 1⁄2
2.75 | = | 2¾
7/2 | = | 3\frac12
7/2 | = | 3 1/2
7/2 | ! | \frac{3}{2}
\frac{5}{6} | ? | 2\frac{5}{3}
\frac{x}{2} | = | x/2
\frac{1}{2x} | ? | 1/2x
\frac{1}{2x} | = | 1/(2x)
\frac{3x}{2} | = | 3\frac{x}{2}
\frac{a}{bc} | ? | a/b/c
\frac13 | = | 0.\overline{3}
\frac{1}{6} | = | 0.1\overline{6}
\frac16 | ! | 0.\overline{16}
\frac13 | ? | 0.33\ldots
\frac13 | ? | 0.3 repeating
-\frac{1}{2} | = | \frac{1}{-2}
# signs and scripts
-5 | = | −5
-5 | = | –5
-5 | = | —5
-2 | ? | 5–7
5 | ! | −5
12 | = | １２
12 | = | ١٢
12 | = | १२
100 | = | 10²
x_1 | = | x₁
x_1 | ! | x_2
x^{12} | ? | x^12
2^{-3} | = | 2⁻³
H_2O | ? | H2O
x^2 | ! | x_2
# names and equations
5 | = | x=5
-5 | = | x=−5
5 | = | 5=x
5 | = | \text{Area} = 5
x=1, y=2 | = | x=1 \text{ and } y=2
x=1, y=2 | ? | (1, 2)
3, -3 | = | \pm 3
3, -3 | = | x=\pm 3
3 | ! | \pm 3
2\pm\sqrt{5} | ! | 2\pm\sqrt{3}
y=2x+1 | = | 2x+1
y=2x+1 | = | y-2x-1=0
y=2x+1 | = | 2y=4x+2
y=2x+1 | ? | y=2x+1=0
x^2+y^2=4 | = | 4=y^2+x^2
x^2+y^2=4 | ? | x^2+y^2=2
x+y<2 | = | 2>y+x
x+y<2 | = | -x-y>-2
x+y<2 | ! | x+y>2
x+y<2 | ! | x+y\le 2
x+y<2 | ? | x+y=2
x \equiv 3 \pmod 5 | ? | 3
7 \mid 21 | ? | 3
# bases, factorials, binomials
101_2 | = | 101_{2}
101_2 | ! | 110_2
101_2 | ? | 5
101_2 | ? | 101_3
120 | = | 5!
120 | ! | 6!
15 | ? | 5!!
10 | = | \binom{5}{2}
10 | ? | {5 \choose 2}
10 | ? | C(5,2)
2^{1000} | ! | 2^{1000}+1
# roots, logarithms, powers
4 | = | \sqrt{16}
2 | = | \sqrt[3]{8}
-2 | = | \sqrt[3]{-8}
-2 | ? | (-8)^{1/3}
2\sqrt3 | = | \sqrt{12}
\sqrt{12} | ? | \sqrt12
\sqrt{12} | = | √12
\sqrt{3+2\sqrt2} | = | 1+\sqrt2
\sqrt2+\sqrt3 | ! | \sqrt5
3 | = | \log_2 8
3 | ! | \log_2 9
2 | ? | \log 100
\log 100 | = | 2\log 10
1 | = | \ln e
-1 | = | e^{i\pi}
\cos x | = | \sin(\frac{\pi}{2}-x)
\sin^2 x | = | 1-\cos^2 x
\sin^{-1} x | ! | \frac{1}{\sin x}
\sin(x)^2 | ? | \sin(x^2)
\sin x/2 | ? | \frac{\sin x}{2}
2^x \cdot 2^y | = | 2^{x+y}
\sqrt{x^2} | ? | x
|x| | ? | x
|x-1| | = | |1-x|
(-1)^{2n} | = | 1
# polynomials
x^2-5x+6 | = | (x-2)(x-3)
x^2-5x+6 | = | 6-5x+x^2
x^2-5x+6 | ! | (x+2)(x+3)
3xy | = | 3yx
3xy | ! | 3x+y
x(x+1) | = | x^2+x
f(x) | ? | fx
x^2+C | ? | x^2
ab | ? | a+b
a\cdot b | ! | a+b
\frac{x^2-1}{x-1} | = | x+1
3+4i | = | 4i+3
3+4i | ! | 3-4i
# ratios, times, dates
3:4 | = | 3 : 4
3:4 | ? | 6:8
3:4 | ? | 3 to 4
1:30 | ? | 90
3:30 pm | = | 3:30 PM
3:30 pm | = | 3:30 p.m.
3:30 pm | ? | 15:30
1/2/2020 | ? | 1/4040
May 5 | ? | 5
# words
Monday | ! | Friday
Monday | = | \textit{monday}
rises | ? | increases
undefined | ? | DNE
no solution | = | \text{no solutions}
no solution | ? | 5
yes | = | True
no | ! | yes
4 | ? | IV
4 | ? | four apples
4 | = | four
3 | ? | third
42 | = | forty-two
even | ! | odd
\text{June} | ! | July
neither | ? | none
# more than one thing that looks alike
16 | ? | 0x10
3 | ? | 3 \pmod{5}
3 | ? | 3 (mod 5)
2024 | ? | 2024 AD
\arctan 1 | = | \frac{\pi}{4}
\arctan 1 | ? | 45^\circ
x>3 | ? | 3
x>3 | ! | 4
x>3 | ? | ]3,\infty[
5 \text{ percent} | = | 0.05
\$1,234.50 | = | 1234.5
-\$1,234 | = | -1234
12:00 | ? | noon
5\% | ? | 5‰
\sum_{i=1}^{3} i | ? | 6
\lfloor 3.7 \rfloor | = | 3
2^{3^2} | = | 512
2^{n+1} | ! | 2^n+1
-x^2 | ! | (-x)^2
\frac34 x | ! | \frac{3}{4x}
# markdown and dollar signs
72 | = | **72**
72 | = | $72$
72 | = | \(72\)
72 | = | "72"
72 | = | 72.
0.5 | = | .5
5 | = | +5
5 | ? | 5...
5 | ? | 5?
5 | ? | ~5
7 | ? | 7 or so
1 + \sqrt{2} | = | 1 + √2
# stars, tildes, degree signs on letters, commas of other countries, words for scales, Greek letters
A* | ? | A
A | ? | A*
x* | ? | x
5* | ? | 5
A** | ? | A
*A | ? | A
~A | ? | A
p | ? | ~p
A~ | ? | A
A^\circ | ? | A
A | ? | A^\circ
x | ? | x^\circ
A° | ? | A
2.5 | ? | x=2,50
1.5 | ? | x = 1,5
1 | ? | x=1,00
3.14 | ? | \pi = 3,14
3.5 | ? | x \approx 3,5
2.5 | ? | \frac{5}{2} = 2,5
3.5 cm | ? | 3,5 cm
3.5 | ? | 3,5 m^2
3.5 | ? | \$3,50
1.5\% | ? | 1,5\%
2.5\pi | ? | 2,5\pi
2.5x | ? | 2,5x
1.5\times 10^3 | ? | 1,5\times 10^3
1234.5 | ? | x = 1.234,5
(1.5,2.5) | ? | (1,5;2,5)
100000 | ? | 1,00,000 rupees
100000 | ? | \$1,00,000
100000 | ? | x=1,00,000
1234567 | ? | 1,234567
12345 | ? | 1,23,45
100000 | ? | 1 lakh
20000000 | ? | 2 crore
1000 | ? | 1 grand
20 | ? | 1 score
144 | ? | 1 gross
1000 | ? | 1 kilo
Δ | = | \Delta
\Omega | = | Ω
\Gamma | = | Γ
\epsilon | = | ε
\sin 30^o | ? | 0.5
0.5 | ? | \sin(30^o)
30^\circ | ? | 30^o
30^\circ | ? | 30o
60^\circ | ? | 60^0
0.5 | ? | \cos 60^0
\emptyset | ? | \phi
\varnothing | ? | \phi
5~cm | = | 5 cm
(1,2) | ! | (2,1)
1,234 | ! | 1,235
10 kilometers | ! | 11 kilometers
A | = | *A*
B | = | **B**
3 | ! | 4
x=1,234 | ! | 1235
"""


def hard_pairs() -> list[tuple[str, str, Verdict]]:
    """(gold, solution, verdict) of each line of the table."""
    pairs = []
    for line in _TABLE.strip().splitlines():
        if line.startswith("# "):
            continue
        gold, sign, given = line.split(" | ", 2)
        pairs.append((gold, rf"\boxed{{{given}}}", _VERDICTS[sign]))
    return pairs
