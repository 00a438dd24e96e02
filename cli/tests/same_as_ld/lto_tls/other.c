__thread int of_other = 20;
