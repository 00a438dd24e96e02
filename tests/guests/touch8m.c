/* Reads one byte of each page of an 8 MiB library and prints their sum. */
#include <stdio.h>

unsigned long touch8m_sum(void);

int main(void)
{
    printf("touched 2048 pages, sum %lu\n", touch8m_sum());
    return 0;
}
