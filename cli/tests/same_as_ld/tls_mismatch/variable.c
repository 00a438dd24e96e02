__thread int variable = 5;
