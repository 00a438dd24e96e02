int small = 3;
_Alignas(131072) int large[5] = {7};
