/* A picture of rings, made twice as large by Catmull and Rom's bicubic filter; written as PGM. */
#include <math.h>
#include <stdio.h>
#define W 640
#define H 360

static unsigned char in[H][W], out[2 * H][2 * W];

static double weight(double x)
{
    x = fabs(x);
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

static int within(int value, int limit) { return value < 0 ? 0 : value >= limit ? limit - 1 : value; }

int main(void)
{
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++)
            in[y][x] = (unsigned char)(127.5 + 127.5 * sin(hypot(x - W / 2, y - H / 2) / 5));
    for (int y = 0; y < 2 * H; y++)
        for (int x = 0; x < 2 * W; x++) {
            double at_x = x / 2.0 - 0.25, at_y = y / 2.0 - 0.25, sum = 0;
            int left = (int)floor(at_x), top = (int)floor(at_y);
            for (int j = top - 1; j <= top + 2; j++)
                for (int i = left - 1; i <= left + 2; i++)
                    sum += weight(at_x - i) * weight(at_y - j) * in[within(j, H)][within(i, W)];
            out[y][x] = (unsigned char)(sum < 0 ? 0 : sum > 255 ? 255 : sum + 0.5);
        }
    printf("P5\n%d %d\n255\n", 2 * W, 2 * H);
    fwrite(out, 1, sizeof out, stdout);
    return 0;
}
