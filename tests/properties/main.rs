mod ddp;
