/* Mandelbrot's set as a grey picture (PGM), 1280 by 720. */
#include <stdio.h>

int main(void)
{
    static unsigned char row[1280];
    printf("P5\n1280 720\n255\n");
    for (int y = 0; y < 720; y++) {
        for (int x = 0; x < 1280; x++) {
            double re = -2.4 + x * (3.2 / 1280), im = -0.9 + y * (1.8 / 720), a = 0, b = 0;
            int steps = 0;
            while (steps < 255 && a * a + b * b <= 4) {
                double next = a * a - b * b + re;
                b = 2 * a * b + im;
                a = next;
                steps++;
            }
            row[x] = (unsigned char)steps;
        }
        fwrite(row, 1, sizeof row, stdout);
    }
    return 0;
}
