/* A matrix product whose trace is known exactly: 512 * 512 halves. */
#include <stdio.h>
#define N 512

static double a[N][N], b[N][N], c[N][N];

int main(void)
{
    /* Each term of the diagonal is 2^(x) * 2^(-x) * 0.5, x depending on both indices: exact in doubles. */
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            int x = (i * 7 + j * 13) % 30;
            a[i][j] = (double)(1 << x);
            b[j][i] = 0.5 / (double)(1 << x);
        }
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++)
            for (int j = 0; j < N; j++)
                c[i][j] += a[i][k] * b[k][j];
    double trace = 0;
    for (int i = 0; i < N; i++)
        trace += c[i][i];
    printf("trace %.0f\n", trace);
    return 0;
}
