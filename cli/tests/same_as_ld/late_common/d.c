int v=5; int dd(void){return v;}
